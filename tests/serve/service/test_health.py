from typing import Any

import pytest

from polyad.serve.service import Health


class Part:
    """An engine or a registry, as far as health looks at it."""

    def __init__(self, **values: object) -> None:
        vars(self).update(values)


@pytest.mark.parametrize(
    ("engine_ready", "engine_state", "live", "status", "engine", "registry"),
    [
        (True, "ready", True, "ready", "ready", "live"),
        (True, "ready", False, "degraded", "ready", "away"),
        (False, "starting", True, "unavailable", "starting", "live"),
        (False, "restarting", False, "unavailable", "restarting", "away"),
        (False, "stopped", True, "unavailable", "stopped", "live"),
        # dead, and the supervisor has not yet looked
        (False, "ready", True, "unavailable", "lost", "live"),
    ],
)
def test_what_the_parts_make(
    engine_ready: bool, engine_state: str, live: bool, status: str, engine: str, registry: str
) -> None:
    parts: list[Any] = [Part(live=live), Part(ready=engine_ready, state=engine_state)]
    readiness = Health(*parts).readiness()
    assert readiness.status == status
    assert (readiness.engine, readiness.registry) == (engine, registry)
    assert readiness.ready is engine_ready
    assert readiness.degraded is not live


def test_nothing_is_remembered() -> None:
    registry: Any = Part(live=True)
    engine: Any = Part(ready=True, state="ready")
    health = Health(registry, engine)
    assert health.readiness().status == "ready"
    engine.ready, engine.state = False, "restarting"
    assert health.readiness().status == "unavailable"
    engine.ready, engine.state, registry.live = True, "ready", False
    assert health.readiness().status == "degraded"
