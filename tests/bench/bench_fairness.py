"""What a flood does to a trickle: a tenant that asks for twenty times its share, beside one at half of its own.

The engine runs SEATS requests at once. The small tenant asks at a quarter of what the engine can answer, which is half
of a share of one half; then the large one keeps twenty times the engine's seats waiting. Figures are of the small
tenant, beside the flood against alone: the median time to a first token, and the answers that it got in the time; and
what both got together, as a share of what the engine can answer.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from polyad.serve.example import unpack_base_model
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad

ADMIN_KEY = "bench-admin"
SEATS = 8
TOKENS = 16
PROMPT = "Question {}: what is remarkable about the number {}?"
MEASURED_S = 60.0
CAPACITY_S = 20.0
FLOOD = 20 * SEATS


class Tenant:
    """One tenant's client: what it asked, and how long the first tokens of its answers took."""

    def __init__(self, url: str, model: str, name: str) -> None:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        made = httpx.post(f"{url}/v1/keys", json={"tenant": name}, headers=headers).raise_for_status().json()
        limits = httpx.Limits(max_connections=None)
        headers = {"authorization": f"Bearer {made['secret']}"}
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=600, limits=limits)
        self._model = model
        self._count = 0
        self.first_tokens: list[float] = []
        self.answered = 0

    async def ask(self) -> None:
        self._count += 1
        prompt = PROMPT.format(self._count, 37 * self._count + 11)
        body = {"model": self._model, "prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
        began, first = time.perf_counter(), None
        async with self._http.stream("POST", "/v1/completions", json=body) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if first is None and line.startswith("data: "):
                    first = time.perf_counter() - began
        self.first_tokens.append(first or 0.0)
        self.answered += 1

    async def keep_asking(self) -> None:
        while True:
            await self.ask()

    async def close(self) -> None:
        await self._http.aclose()


@asynccontextmanager
async def flood(tenant: Tenant, waiting: int) -> AsyncIterator[None]:
    """So many requests of the tenant at any time."""
    tasks = [asyncio.create_task(tenant.keep_asking()) for _ in range(waiting)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def capacity(tenant: Tenant) -> float:
    """Requests per second that keep all seats taken."""
    async with flood(tenant, 2 * SEATS):
        await asyncio.sleep(CAPACITY_S / 4)
        before, began = tenant.answered, time.perf_counter()
        await asyncio.sleep(CAPACITY_S)
        return (tenant.answered - before) / (time.perf_counter() - began)


async def trickle(tenant: Tenant, rate: float) -> tuple[float, float]:
    """Ask at a rate, at random times, for MEASURED_S: the median time to a first token, and answers per second."""
    chance, tasks = random.Random(1), []
    first, began = len(tenant.first_tokens), time.perf_counter()
    answered = tenant.answered
    while time.perf_counter() - began < MEASURED_S:
        tasks.append(asyncio.create_task(tenant.ask()))
        await asyncio.sleep(chance.expovariate(rate))
    got = (tenant.answered - answered) / (time.perf_counter() - began)
    await asyncio.gather(*tasks)
    return statistics.median(tenant.first_tokens[first:]), got


async def measure(url: str, model: str) -> dict[str, float]:
    small, large = Tenant(url, model, "small"), Tenant(url, model, "large")
    try:
        most = await capacity(large)
        rate = most / 4
        print(f"capacity  {most:.2f} requests/s; the small tenant asks for {rate:.2f}", flush=True)
        alone_s, alone = await trickle(small, rate)
        print(f"alone     first token {alone_s * 1000:.0f} ms, {alone:.2f} answers/s", flush=True)
        async with flood(large, FLOOD):
            await asyncio.sleep(CAPACITY_S / 4)
            before, began = large.answered, time.perf_counter()
            beside_s, beside = await trickle(small, rate)
            flooding = (large.answered - before) / (time.perf_counter() - began)
        print(f"beside    first token {beside_s * 1000:.0f} ms, {beside:.2f} answers/s", flush=True)
        print(f"flood     {flooding:.2f} answers/s", flush=True)
    finally:
        await small.close()
        await large.close()
    return {
        "ttft_ratio": beside_s / alone_s,
        "rate_ratio": beside / alone,
        "throughput_ratio": (beside + flooding) / most,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    model = unpack_base_model(parser.parse_args().base_models, print)
    settings = {
        "model": model.name,
        "dtype": DTYPE,
        "engine": " ".join([*ENGINE, EAGER]),
        "seats": SEATS,
        "tokens": TOKENS,
        "waiting in the flood": FLOOD,
        "measured": f"{MEASURED_S:g} s",
    }
    print_header("fairness", settings)
    with tempfile.TemporaryDirectory() as folder:
        seats = ("--max-num-seqs", str(SEATS))
        with polyad(model, Path(folder), "--admin-key", ADMIN_KEY, *seats) as server:
            result = asyncio.run(measure(server.url, model.name))
    print_result(result)


if __name__ == "__main__":
    main()
