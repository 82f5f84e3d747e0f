"""The snapshot, and those who want to hear of its changes. Lives in the event loop."""

import logging
from collections.abc import Callable, Iterable

from polyad.adapters_store.registry.events import Change, Event, Reloaded
from polyad.adapters_store.registry.snapshot import Snapshot

logger = logging.getLogger(__name__)


class Feed:
    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self.epoch = 0
        self._callbacks: list[Callable[[Event], None]] = []

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def advance(self, changes: Iterable[Change]) -> None:
        """Apply what the snapshot does not have yet; raise OutOfOrder at a gap."""
        for change in changes:
            if self.snapshot.apply(change):
                self._tell(change)

    def reload(self, snapshot: Snapshot) -> None:
        self.snapshot.replace(snapshot)
        self.epoch += 1
        self._tell(Reloaded(revision=snapshot.revision))

    def _tell(self, event: Event) -> None:
        for callback in tuple(self._callbacks):
            try:
                callback(event)
            except Exception:
                # One listener's defect must not stop the others, nor the tail.
                logger.exception("a subscriber of the registry failed on %s", type(event).__name__)
