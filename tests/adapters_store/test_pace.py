import asyncio
import time

import pytest

from polyad.adapters_store.pace import Pace


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rests; a piece of work takes this thread two milliseconds."""
    clock, rests = [0.0], []

    def work() -> float:
        clock[0] += 0.001
        return clock[0]

    monkeypatch.setattr(time, "thread_time", work)
    monkeypatch.setattr(time, "sleep", rests.append)
    return rests


def test_a_thread_rests_now_and_then_while_others_need_the_cores(slept: list[float]) -> None:
    pace = Pace(lambda: True)
    for _ in range(100):
        pace.rest()
    assert 10 <= len(slept) < 50


def test_nobody_rests_where_nobody_needs_the_cores(slept: list[float]) -> None:
    for pace in (Pace(), Pace(lambda: False)):
        for _ in range(100):
            pace.rest()
    assert slept == []


async def test_an_event_loop_goes_on_meanwhile() -> None:
    others = asyncio.create_task(asyncio.sleep(0))
    await Pace().pause()
    assert not others.done()
    await Pace(lambda: True).pause()
    assert others.done()
