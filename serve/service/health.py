"""Whether the server is alive, and whether it is ready."""

from dataclasses import dataclass
from typing import Protocol

from polyad.adapters_store.registry import Registry


class Engine(Protocol):
    """What health needs to know of the engine's supervisor."""

    @property
    def ready(self) -> bool: ...

    @property
    def state(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Readiness:
    """`ready` says whether requests are served; `degraded` that adapters cannot be changed meanwhile."""

    ready: bool
    degraded: bool
    engine: str
    registry: str

    @property
    def status(self) -> str:
        if not self.ready:
            return "unavailable"
        return "degraded" if self.degraded else "ready"


class Health:
    """Reads the parts; keeps nothing."""

    def __init__(self, registry: Registry, engine: Engine) -> None:
        self._registry = registry
        self._engine = engine

    def readiness(self) -> Readiness:
        """The state of the parts now."""
        ready, live = self._engine.ready, self._registry.live
        engine = self._engine.state if ready or self._engine.state != "ready" else "lost"
        return Readiness(ready, not live, engine, "live" if live else "away")
