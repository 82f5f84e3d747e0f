"""The client that measures a server, before one whose times are known."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.bench.fleet_sim.replica import Request
from tests.bench.fleet_sim.served import Served

FIRST_S, STEP_S, LOAD_S = 0.05, 0.02, 0.3
# A busy machine wakes sleepers late.
LATE = 3.0


class Fake:
    """Answers with as many tokens as it is asked for; every new adapter is a load."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/metrics":
            loads = len(set(self.seen))
            text = f"polyad_load_seconds_count {loads}.0\npolyad_load_seconds_sum {loads * LOAD_S}\nother 1.0\n"
            return httpx.Response(200, text=text)
        body = httpx.Response(200, content=request.content).json()
        self.seen.append(body["model"])
        return httpx.Response(200, content=self._tokens(body["max_tokens"]))

    async def _tokens(self, number: int) -> AsyncIterator[bytes]:
        await asyncio.sleep(FIRST_S - STEP_S)
        for _ in range(number):
            await asyncio.sleep(STEP_S)
            yield b'data: {"choices": []}\n\n'
        yield b"data: [DONE]\n\n"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with httpx.AsyncClient(base_url="http://fake", transport=httpx.MockTransport(Fake())) as http:
        yield Served(http, ["a", "b", "c", "d"])


async def test_times_are_those_of_the_server(served: Served) -> None:
    assert FIRST_S <= await served.first_token_s() < LATE * FIRST_S
    assert STEP_S <= await served.step_s(3, 2) < LATE * STEP_S
    assert await served.load_s([2, 3], beside=1) == pytest.approx(LOAD_S)
    with pytest.raises(RuntimeError, match="0 loads, 1 expected"):
        await served.load_s([2], beside=0)


async def test_the_first_third_of_the_requests_is_not_counted(served: Served) -> None:
    requests = [Request(0.05 * number, adapter, 0, tokens=2) for number, adapter in enumerate((0, 0, 1, 1, 2, 2))]
    outcome, load_s = await served.serve(requests)
    assert len(outcome.first_token_s) == 4
    assert FIRST_S <= outcome.quantile(0.5) < LATE * FIRST_S
    assert outcome.loads_per_request == 2 / 4
    assert load_s == pytest.approx(LOAD_S)
