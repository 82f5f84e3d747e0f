"""Ten thousand adapters: what a name costs, what a list costs, the server's memory, and a thousand in use with 8 slots.

Names share the bytes of BLOBS adapters, for only names are many here; a name has its own place in memory and slots.
Throughput is that of requests for USED names under Zipf's law, against as many requests for one of them.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import psutil

from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.registry import EmbeddedRedis, Registry, VersionDraft
from polyad.serve.compose import Resolver
from polyad.serve.example import unpack_base_model
from tests.bench.adapters import push_to_polyad
from tests.bench.load import throughput
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad
from tests.fixtures.adapters import write_adapter

REGISTERED = 10_000
USED = 1_000
SLOTS = 8
BLOBS = 16
RANK = 4
REQUESTS = 128
TOKENS = 16
ROUNDS = 3
LOOKUPS = 20_000
LISTS = 300
_WRITERS = 16


def names() -> list[str]:
    return [f"adapter-{number:05d}" for number in range(REGISTERED)]


async def register(registry: Registry) -> None:
    """Give the bytes that were pushed all the other names."""
    drafts = [
        VersionDraft(**registry.snapshot.resolve("public", f"bytes-{index}").model_dump()) for index in range(BLOBS)
    ]
    waiting = iter(enumerate(names()))

    async def write() -> None:
        for number, name in waiting:
            await registry.add_version("public", name, drafts[number % BLOBS])

    await asyncio.gather(*(write() for _ in range(_WRITERS)))


def p99(action: Callable[[], object], times: int) -> float:
    """Of so many runs, the seconds that one in a hundred exceeds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return statistics.quantiles(taken, n=100)[98]


def zipf(used: Sequence[str], count: int, seed: int) -> list[str]:
    return random.Random(seed).choices(used, [1 / (rank + 1) for rank in range(len(used))], k=count)


def throughput_ratio(url: str) -> float:
    used, ratios = names()[:USED], []
    throughput(url, zipf(used, REQUESTS, 0), REQUESTS, 2)
    for round_ in range(ROUNDS):
        one = throughput(url, used[:1], REQUESTS, TOKENS)
        many = throughput(url, zipf(used, REQUESTS, 1 + round_), REQUESTS, TOKENS)
        print(f"round {round_ + 1}   one {one:7.1f} tokens/s, {USED} under Zipf {many:7.1f} tokens/s", flush=True)
        ratios.append(many / one)
    return statistics.median(ratios)


def figures(resolver: Resolver, url: str, server: int) -> dict[str, float]:
    chance, known = random.Random(0), names()
    resolve_s = p99(lambda: resolver.plan(chance.choice(known)), LOOKUPS)
    with httpx.Client(base_url=url, timeout=60) as client:
        while client.get("/v1/adapters", params={"after": known[-2]}).json()["data"][0]["name"] != known[-1]:
            time.sleep(0.1)

        def page() -> None:
            client.get("/v1/adapters", params={"after": chance.choice(known), "limit": 100}).raise_for_status()

        list_s = p99(page, LISTS)
    ratio = throughput_ratio(url)
    rss = psutil.Process(server).memory_info().rss
    return {
        "resolve_p99_us": resolve_s * 1e6,
        "list_p99_ms": list_s * 1e3,
        "rss_mb": rss / 2**20,
        "throughput_ratio": ratio,
    }


async def measure(redis: EmbeddedRedis, url: str, base: BaseModel, server: int) -> dict[str, float]:
    registry = Registry(redis.url)
    await registry.start()
    try:
        await register(registry)
        print(f"registered {registry.snapshot.count} adapters", flush=True)
        resolver = Resolver(registry.snapshot, "public", [base.name], base.fingerprint)
        return await asyncio.to_thread(figures, resolver, url, server)
    finally:
        await registry.close()


async def run(model: Path, scratch: Path) -> dict[str, float]:
    base = BaseModel.from_folder(model, model.name)
    redis = EmbeddedRedis(scratch / "redis")
    await redis.start()
    try:
        return await asyncio.to_thread(serve, model, scratch, redis, base, asyncio.get_running_loop())
    finally:
        await redis.stop()


def serve(
    model: Path, scratch: Path, redis: EmbeddedRedis, base: BaseModel, loop: asyncio.AbstractEventLoop
) -> dict[str, float]:
    options = ("--redis-url", redis.url, "--slots", str(SLOTS), "--max-rank", str(RANK))
    with polyad(model, scratch, *options) as server:
        for index in range(BLOBS):
            folder = write_adapter(scratch / f"bytes-{index}", base, seed=index, rank=RANK, size=1e-3)
            push_to_polyad(server.url, f"bytes-{index}", folder)
        measured = measure(redis, server.url, base, server.process.pid)
        return asyncio.run_coroutine_threadsafe(measured, loop).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    model = unpack_base_model(parser.parse_args().base_models, print)
    settings = {
        "model": model.name,
        "dtype": DTYPE,
        "engine": " ".join([*ENGINE, EAGER]),
        "registered": REGISTERED,
        "used": USED,
        "slots": SLOTS,
        "rank": RANK,
        "load": f"{REQUESTS} requests of {TOKENS} tokens",
        "rounds": ROUNDS,
    }
    print_header("scale", settings)
    with tempfile.TemporaryDirectory() as folder:
        print_result(asyncio.run(run(model, Path(folder))))


if __name__ == "__main__":
    main()
