import asyncio
import os
import signal
from pathlib import Path

import pytest

from polyad.adapters_store.ending import end
from polyad.adapters_store.registry import EmbeddedRedis


async def swallowing(times: int) -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if not times:
                raise
            times -= 1


@pytest.mark.parametrize("times", [0, 1, 2])
async def test_a_task_ends_though_a_cancel_is_swallowed(times: int) -> None:
    task = asyncio.create_task(swallowing(times))
    await asyncio.sleep(0)
    await end(task)
    assert task.cancelled()


async def test_what_it_ended_with_is_raised() -> None:
    async def failing() -> None:
        raise ValueError("broken")

    task = asyncio.create_task(failing())
    await asyncio.sleep(0)
    with pytest.raises(ValueError, match="broken"):
        await end(task)


async def test_redis_stops_though_its_restart_swallows_the_cancel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = EmbeddedRedis(tmp_path / "redis")
    await server.start()
    asked = asyncio.Event()

    async def answers() -> bool:
        asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return True
        return False

    monkeypatch.setattr(server, "_answers", answers)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await asked.wait()
    await server.stop()
    assert server.pid is None
