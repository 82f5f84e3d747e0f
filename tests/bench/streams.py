"""Streams that run throughout, and the gaps between their tokens, by the phase that a gap fell into."""

import asyncio
import multiprocessing
import statistics
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

PROMPT = "Tell me something about the sea."
_ANSWER_TOKENS = 256
_RESULT_S = 120

# The time of a token, and the gap before it, in seconds.
Token = tuple[float, float]


@dataclass
class Gaps:
    """Gaps between tokens, in seconds, of all streams, by the phase they fell into."""

    phases: list[tuple[float, str]] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def begin(self, phase: str) -> None:
        self.phases.append((time.perf_counter(), phase))

    def assign(self, tokens: list[Token]) -> None:
        starts = [start for start, _ in self.phases]
        for now, gap in tokens:
            index = bisect_right(starts, now) - 1
            if index >= 0:
                self.seconds.setdefault(self.phases[index][1], []).append(gap)

    def percentile(self, phase: str, percent: float) -> float:
        return statistics.quantiles(self.seconds[phase], n=1000, method="inclusive")[round(percent * 10) - 1]

    def line(self, name: str, phase: str, width: int = 6) -> str:
        """How many gaps a phase has, and their middle and 99th percentile, for people."""
        p50, p99 = (1e3 * self.percentile(phase, percent) for percent in (50, 99))
        return f"{name:8} {phase:{width}} {len(self.seconds[phase]):6} gaps   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms"


async def token_times(client: httpx.AsyncClient, model: str, max_tokens: int) -> AsyncIterator[float]:
    """The times at which a stream's tokens arrive."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    async with client.stream("POST", "/v1/completions", json={**body, "ignore_eos": True}) as response:
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"{model}: {response.status_code} {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield time.perf_counter()


@contextmanager
def watched_streams(url: str, model: str, count: int) -> Iterator["Watched"]:
    """So many streams run until `Watched.end`, or the end of the block.

    They are watched by a process of its own, so that the work of whoever measures is not measured as the server's.
    """
    processes = multiprocessing.get_context("spawn")
    stop, result = processes.Event(), processes.Queue()
    process = processes.Process(target=_watch, args=(url, model, count, stop, result), daemon=True)
    process.start()
    try:
        yield Watched(stop, result)
    finally:
        stop.set()
        process.join(_RESULT_S)


@dataclass
class Watched:
    stop: Any
    result: Any

    def end(self) -> list[Token]:
        """Let the streams end; all their tokens."""
        self.stop.set()
        tokens: list[Token] = self.result.get(True, _RESULT_S)
        return tokens


async def _stream(client: httpx.AsyncClient, model: str, stop: Any, tokens: list[Token]) -> None:
    while not stop.is_set():
        last: float | None = None
        async for now in token_times(client, model, _ANSWER_TOKENS):
            if last is not None:
                tokens.append((now, now - last))
            last = now


def _watch(url: str, model: str, count: int, stop: Any, result: Any) -> None:
    async def run() -> list[Token]:
        tokens: list[Token] = []
        async with httpx.AsyncClient(base_url=url, timeout=120) as client:
            await asyncio.gather(*(_stream(client, model, stop, tokens) for _ in range(count)))
        return tokens

    result.put(asyncio.run(run()))
