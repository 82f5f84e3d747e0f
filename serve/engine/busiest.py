"""The adapters that metrics name: the busiest ones, as many as there are labels; all others are one."""

from collections.abc import Callable

OTHER = "other"


class Busiest:
    """Counts requests in bounded memory (space-saving: Metwally et al., ICDT 2005).

    A name takes over the label of the least busy one once it was surely asked for twice as often, so that labels do not
    flicker; `forget` is told whose label ended.
    """

    def __init__(self, labels: int, forget: Callable[[str], None]) -> None:
        self._labels = labels
        self._forget = forget
        self._named: dict[str, int] = {}
        # Of each other name that is counted: its count, and how much of it may be others'.
        self._rest: dict[str, tuple[int, int]] = {}

    def label(self, name: str) -> str:
        """One more request for the name: the label that it has now."""
        if name in self._named or len(self._named) < self._labels:
            self._named[name] = self._named.get(name, 0) + 1
            return name
        if not self._labels:
            return OTHER
        sure = self._count(name)
        least = min(self._named, key=self._named.__getitem__)
        if sure <= 2 * self._named[least]:
            return OTHER
        del self._rest[name]
        self._rest[least] = self._named.pop(least), 0
        self._forget(least)
        self._named[name] = sure
        return name

    def current(self, name: str) -> str:
        """The label of the name, without another request for it."""
        return name if name in self._named else OTHER

    def _count(self, name: str) -> int:
        """Count one more; how often the name was asked for at least."""
        if name not in self._rest and len(self._rest) >= 4 * self._labels:
            # Whoever comes takes over the place and the count of the least: over-estimated, never forgotten.
            least = min(self._rest, key=lambda known: self._rest[known][0])
            taken, _ = self._rest.pop(least)
            self._rest[name] = taken, taken
        count, others = self._rest.get(name, (0, 0))
        self._rest[name] = count + 1, others
        return count + 1 - others
