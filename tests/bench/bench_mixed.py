"""Half an hour of everything at once: what was served, what failed and how, and what is left behind.

CLIENTS ask without pause: single adapters, blends, fusions, base, names that nobody has; streams, half of which are
left in the middle. Beside them adapters are pushed, promoted and deleted, and every KILL_EVERY_S something is killed:
Redis, the engine, its worker, in turns. Ends 0 if every failure was one that a client is told about and may try again
(503, an error event in a stream, a connection that was cut) while something had been killed; if no version whose push
or promotion was acknowledged is lost; if an adapter that nobody touched says in the end what it said in the beginning;
and if the server's memory grew by less than GROWTH_MB from the first half, in which an engine is
replaced for the first time, to the last quarter.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.machine import print_header, print_result
from tests.bench.mixed_load import (
    ADAPTERS,
    PINNED,
    PROMPT,
    REFUSED,
    SERVED,
    Adapters,
    Client,
    Record,
    change,
    content,
    sending,
)
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad, server_memory_mb
from tests.fixtures.adapters import write_adapter
from tests.fixtures.processes import ENGINE as ENGINE_PROCESS
from tests.fixtures.processes import REDIS, WORKER, child

MINUTES = 30.0
CLIENTS = 6
SLOTS = 8
FILES = 6
KILL_EVERY_S = 240.0
GROWTH_MB = 48.0
VICTIMS = (REDIS, ENGINE_PROCESS, REDIS, WORKER)

Task = asyncio.Task[None]


async def ready(http: httpx.AsyncClient, seconds: float = 300.0) -> None:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            if (await http.get("/ready")).json().get("status") == "ready":
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.2)
    raise TimeoutError(f"the server was not ready again after {seconds:g} s")


async def kill(http: httpx.AsyncClient, server: int, victim: str, record: Record) -> float:
    """Kill a part of the server, and wait until all of it is back; the seconds that it took."""
    record.away, began = True, time.monotonic()
    child(server, victim).kill()
    await asyncio.sleep(1)
    await ready(http)
    # Answers that were being given when the engine went away end within moments of its return.
    await asyncio.sleep(2)
    record.away = False
    return time.monotonic() - began


async def said(http: httpx.AsyncClient) -> str:
    body = {"model": PINNED, "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    answer = await http.post("/v1/completions", json=body)
    return str(answer.raise_for_status().json()["choices"][0]["text"])


async def forever(act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await act()


@dataclass
class Watch:
    """What is seen of the server meanwhile: its memory, by the share of the time that had passed; the kills."""

    server: int
    memory: list[tuple[float, float]] = field(default_factory=list)
    took: list[float] = field(default_factory=list)

    async def over(self, http: httpx.AsyncClient, record: Record, seconds: float, tasks: Sequence[Task]) -> None:
        """Until the time is over; every now and then something is killed."""
        every = min(KILL_EVERY_S, seconds / 6)
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            await asyncio.sleep(2)
            self.memory.append((passed / seconds, server_memory_mb(self.server)))
            for task in tasks:
                if task.done():
                    task.result()
            if passed > every * (len(self.took) + 1):
                await self._kill(http, record, passed / 60)

    async def _kill(self, http: httpx.AsyncClient, record: Record, minute: float) -> None:
        victim = VICTIMS[len(self.took) % len(VICTIMS)]
        self.took.append(await kill(http, self.server, victim, record))
        size = self.memory[-1][1]
        print(f"{minute:5.1f} min  {victim} killed, back in {self.took[-1]:.1f} s, {size:.0f} MB", flush=True)


async def measure(url: str, base: str, server: int, files: Sequence[Path], seconds: float) -> dict[str, float]:
    record, watch = Record(), Watch(server)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        adapters = Adapters(http, files, record)
        (await sending(http, PINNED, content(files[0]))()).raise_for_status()
        before = await said(http)
        client = Client(http, base, adapters, record)
        tasks = [asyncio.create_task(forever(client.ask)) for _ in range(CLIENTS)]
        tasks += [asyncio.create_task(change(adapters)) for _ in range(2)]
        try:
            await watch.over(http, record, seconds, tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await ready(http)
        lost, after = await adapters.lost(), await said(http)
    report(record)
    return judge(record, watch.memory, watch.took, lost, after == before)


def report(record: Record) -> None:
    for (asked, outcome), count in sorted(record.outcomes.items()):
        calm = record.calm_failures[asked, outcome]
        print(f"{asked:20} {outcome:14} {count:7}" + (f"   {calm} of them for no reason" if calm else ""), flush=True)


def judge(
    record: Record, memory: Sequence[tuple[float, float]], took: Sequence[float], lost: Sequence[str], same: bool
) -> dict[str, float]:
    first = max(size for share, size in memory if share < 0.5)
    last = max(size for share, size in memory if share > 0.75)
    print(
        f"memory {memory[0][1]:.0f} MB at first, at most {first:.0f} in the first half, {last:.0f} in the last quarter"
    )
    for version in lost:
        print(f"{version} was acknowledged, and is lost")
    counts = record.outcomes
    served = sum(count for (_, outcome), count in counts.items() if outcome in SERVED)
    refused = sum(count for (_, outcome), count in counts.items() if outcome in REFUSED)
    return {
        "served": served,
        "refused": refused,
        "told": counts.total() - served - refused - record.calm_failures.total(),
        "failed": record.calm_failures.total(),
        "kills": len(took),
        "worst_return_s": max(took, default=0.0),
        "lost": len(lost),
        "same_answer": same,
        "growth_mb": last - first,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    parser.add_argument("--minutes", type=float, default=MINUTES)
    given = parser.parse_args()
    model = unpack_base_model(given.base_models, print)
    settings = {
        "model": model.name,
        "dtype": DTYPE,
        "engine": " ".join([*ENGINE, EAGER]),
        "minutes": given.minutes,
        "clients": CLIENTS,
        "adapters": ADAPTERS,
        "slots": SLOTS,
    }
    print_header("mixed", settings)
    with tempfile.TemporaryDirectory() as folder:
        scratch, base = Path(folder), BaseModel.from_folder(model, model.name)
        files = [write_adapter(scratch / f"files-{seed}", base, seed=seed, size=0.02) for seed in range(FILES)]
        with polyad(model, scratch, "--slots", str(SLOTS), "--max-rank", "16") as server:
            process = server.process.pid
            result = asyncio.run(measure(server.url, model.name, process, files, given.minutes * 60))
            if result["failed"]:
                print(f"the end of the server's log:\n{server.tail()}")
    print_result(result)
    ok = not result["failed"] and not result["lost"] and result["same_answer"] and result["growth_mb"] < GROWTH_MB
    sys.exit(not ok)


if __name__ == "__main__":
    main()
