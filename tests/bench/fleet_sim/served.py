"""One real server: the times that the simulator takes in, and what comes of the simulator's own arrivals."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import numpy as np

from tests.bench.fleet_sim.replica import Request
from tests.bench.fleet_sim.simulation import Outcome

PROMPT = "Question: what is remarkable about the sea, and about those who live beside it? " * 4
_STEPS = 48
_LONG = 1500
_TRIES = 12
_SETTLE_S = 1.0


class Served:
    """A client of one server that has these adapters."""

    def __init__(self, http: httpx.AsyncClient, names: Sequence[str]) -> None:
        self._http = http
        self._names = names

    async def ask(self, adapter: int, tokens: int) -> list[float]:
        """The moments at which the tokens came. Raises httpx.HTTPError."""
        body = {"model": self._names[adapter], "prompt": PROMPT, "max_tokens": tokens, "ignore_eos": True}
        moments = []
        async with self._http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    moments.append(time.perf_counter())
        return moments

    async def step_s(self, requests: int, adapters: int) -> float:
        """A step with so many requests, of so many adapters."""
        streams = await asyncio.gather(*(self.ask(number % adapters, _STEPS) for number in range(requests)))
        begin, end = max(stream[0] for stream in streams), min(stream[-1] for stream in streams)
        steps = statistics.median(sum(begin < moment <= end for moment in stream) for stream in streams)
        return (end - begin) / steps

    async def first_token_s(self) -> float:
        """From a request to its first token, with nothing beside it, the adapter in a slot."""
        waits = []
        for _ in range(_TRIES):
            began = time.perf_counter()
            waits.append((await self.ask(0, 1))[0] - began)
        return statistics.median(waits)

    async def load_s(self, cold: Sequence[int], beside: int) -> float:
        """A load, by the server's own account, of adapters that are not in its memory, while others get tokens."""
        async with self._streams(beside):
            count, seconds = await self.loads()
            for adapter in cold:
                await self.ask(adapter, 1)
            loads, after = await self.loads()
        if loads - count != len(cold):
            raise RuntimeError(f"{loads - count} loads, {len(cold)} expected")
        return (after - seconds) / len(cold)

    async def loads(self) -> tuple[int, float]:
        """How many versions were loaded, and the seconds of all."""
        lines = (await self._http.get("/metrics")).raise_for_status().text.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("polyad_load_seconds_"))
        return int(float(values["polyad_load_seconds_count"])), float(values["polyad_load_seconds_sum"])

    async def serve(self, requests: Sequence[Request]) -> tuple[Outcome, float]:
        """Send requests when they arrive; what came of all but the first third, and the mean of its loads."""
        began, waits = time.perf_counter(), []
        counted = len(requests) // 3
        before = (0, 0.0)

        async def one(request: Request) -> float:
            return (await self.ask(request.adapter, request.tokens))[0] - began - request.arrival

        for number, request in enumerate(requests):
            await asyncio.sleep(began + request.arrival - time.perf_counter())
            if number == counted:
                before = await self.loads()
            waits.append(asyncio.create_task(one(request)))
        first_tokens = (await asyncio.gather(*waits))[counted:]
        count, seconds = np.subtract(await self.loads(), before)
        return Outcome(np.array(first_tokens), count / len(first_tokens)), seconds / max(count, 1)

    @asynccontextmanager
    async def _streams(self, number: int) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.ask(0, _LONG)) for _ in range(number)]
        await asyncio.sleep(_SETTLE_S)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
