"""Half an hour of everything at once: what was served, what failed and how, and what is left behind.

CLIENTS ask without pause: single adapters, blends, fusions, base, names that nobody has; streams, half of which are
left in the middle. Beside them adapters are pushed, promoted and deleted, and every KILL_EVERY_S something is killed:
Redis, the engine, its worker, in turns. Ends 0 if every failure was one that a client is told about and may try again
(503, an error event in a stream, a connection that was cut) while something had been killed; if no version whose push
or promotion was acknowledged is lost; if an adapter that nobody touched says in the end what it said in the beginning;
and if the server's memory grew by less than GROWTH_MB after the first quarter.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad, server_memory_mb
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter
from tests.fixtures.processes import ENGINE as ENGINE_PROCESS
from tests.fixtures.processes import REDIS, WORKER, child

MINUTES = 30.0
CLIENTS = 6
ADAPTERS = 24
SLOTS = 8
FILES = 6
KILL_EVERY_S = 240.0
GROWTH_MB = 48.0
PROMPT = "The lighthouse keeper said"
_PINNED = "pinned"
_SERVED = frozenset({"200", "201", "left"})
_REFUSED = frozenset({"404", "409"})
_TOLD = frozenset({"503", "stream error", "cut"})


@dataclass
class Record:
    """What happened, by what was asked and what came of it; `calm` is whether nothing killed was away just then."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    calm_failures: Counter[tuple[str, str]] = field(default_factory=Counter)
    away: bool = False

    def note(self, asked: str, outcome: str, was_away: bool = False) -> None:
        self.outcomes[asked, outcome] += 1
        failed = outcome not in (*_SERVED, *_REFUSED)
        if failed and not (outcome in _TOLD and (self.away or was_away)):
            self.calm_failures[asked, outcome] += 1


class Adapters:
    """The adapters that come, change and go, and what of them was acknowledged."""

    def __init__(self, http: httpx.AsyncClient, files: Sequence[Path], record: Record) -> None:
        self._http = http
        self._files = [content(one) for one in files]
        self._record = record
        self.versions: dict[str, list[str]] = {}
        # Names with a write on its way, or one of which nobody knows whether it was made.
        self._busy: set[str] = set()
        self.unsure: set[str] = set()

    async def push(self, name: str) -> None:
        async with _only(self._busy, name) as free:
            if not free:
                return
            send = sending(self._http, name, random.choice(self._files))
            answer = await attempt(self._record, "push", send)
            if answer is not None and answer.is_success:
                self.versions.setdefault(name, []).append(answer.json()["version"])
            elif answer is None or answer.status_code >= 500:
                self.unsure.add(name)

    async def promote(self, name: str) -> None:
        async with _only(self._busy, name) as free:
            if not free or not self.versions.get(name):
                return
            body = {"version": random.choice(self.versions[name])}
            path = f"/v1/adapters/{name}/aliases/production"
            await attempt(self._record, "promote", lambda: self._http.put(path, json=body))

    async def delete(self, name: str) -> None:
        async with _only(self._busy, name) as free:
            if not free or name not in self.versions:
                return
            answer = await attempt(self._record, "delete", lambda: self._http.delete(f"/v1/adapters/{name}"))
            if answer is not None and answer.is_success:
                del self.versions[name]
                self.unsure.discard(name)
            elif answer is None or answer.status_code >= 500:
                self.unsure.add(name)

    async def lost(self) -> list[str]:
        """Acknowledged versions that are not there; names whose last write was cut off are left out."""
        found = []
        for name, versions in self.versions.items():
            if name in self.unsure:
                continue
            listed = (await self._http.get(f"/v1/adapters/{name}/versions?limit=1000")).json()["data"]
            there = {one["version"] for one in listed}
            found += [f"{name}@{version}" for version in versions if version not in there]
        return found


class _only:
    """Whether nobody else writes to this name; if so, nobody does meanwhile."""

    def __init__(self, busy: set[str], name: str) -> None:
        self._busy, self._name = busy, name

    async def __aenter__(self) -> bool:
        self._free = self._name not in self._busy
        self._busy.add(self._name)
        return self._free

    async def __aexit__(self, *error: object) -> None:
        if self._free:
            self._busy.discard(self._name)


def content(folder: Path) -> dict[str, bytes]:
    return {"config": (folder / CONFIG).read_bytes(), "weights": (folder / WEIGHTS).read_bytes()}


def sending(http: httpx.AsyncClient, name: str, files: dict[str, bytes]) -> Callable[[], Awaitable[httpx.Response]]:
    return lambda: http.post("/v1/adapters", data={"name": name, "alias": "production"}, files=files)


async def attempt(record: Record, asked: str, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response | None:
    """One request, noted; None if the connection was cut."""
    away = record.away
    try:
        answer = await send()
    except httpx.HTTPError as error:
        record.note(asked, "cut" if isinstance(error, httpx.TransportError) else repr(error), away)
        return None
    record.note(asked, str(answer.status_code), away)
    return answer


class Client:
    """Asks without pause for whatever there is."""

    def __init__(self, http: httpx.AsyncClient, base: str, adapters: Adapters, record: Record) -> None:
        self._http = http
        self._base = base
        self._adapters = adapters
        self._record = record

    async def ask(self) -> None:
        names = list(self._adapters.versions) or [_PINNED]
        one, two, three = (random.choice(names) for _ in range(3))
        asked, model = random.choice(
            [
                ("adapter", one),
                ("adapter", one),
                ("blend", f"{one}*0.5 + {two}*0.25 - {three}*0.1"),
                ("fusion", f"fuse({one}, {two})"),
                ("base", self._base),
                ("nobody's", f"nobody-{random.randrange(10**9)}"),
            ]
        )
        body = {"model": model, "prompt": PROMPT, "max_tokens": random.choice((4, 16, 48)), "ignore_eos": True}
        if random.random() < 0.5:
            await self._stream(asked, body, leave=random.random() < 0.5)
        else:
            await attempt(self._record, asked, lambda: self._http.post("/v1/completions", json=body))
        if self._record.away:
            await asyncio.sleep(0.5)

    async def _stream(self, asked: str, body: dict[str, Any], leave: bool) -> None:
        away = self._record.away
        try:
            async with self._http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
                outcome = await self._read(answer, random.randrange(1, 12) if leave else 10**9)
        except httpx.TransportError:
            outcome = "cut"
        self._record.note(f"{asked}, streamed", outcome, away)

    @staticmethod
    async def _read(answer: httpx.Response, tokens: int) -> str:
        if not answer.is_success:
            await answer.aread()
            return str(answer.status_code)
        done, failed, taken = False, False, 0
        async for line in answer.aiter_lines():
            done |= line == "data: [DONE]"
            failed |= line.startswith("data: {") and "error" in json.loads(line.removeprefix("data: "))
            taken += line.startswith("data: ")
            if taken >= tokens:
                return "left"
        return "stream error" if failed else "200" if done else "cut"


async def change(adapters: Adapters) -> None:
    """Push, promote, delete: one after another, at random."""
    while True:
        name = f"adapter-{random.randrange(ADAPTERS)}"
        act = random.choices((adapters.push, adapters.promote, adapters.delete), (5, 4, 2))[0]
        await act(name)
        await asyncio.sleep(random.uniform(0.2, 1.5))


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
    body = {"model": _PINNED, "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    answer = await http.post("/v1/completions", json=body)
    return str(answer.raise_for_status().json()["choices"][0]["text"])


async def forever(act: Callable[[], Awaitable[None]]) -> None:
    while True:
        await act()


async def measure(url: str, base: str, server: int, files: Sequence[Path], seconds: float) -> dict[str, float]:
    limits = httpx.Limits(max_connections=None)
    record, victims, took = Record(), [REDIS, ENGINE_PROCESS, REDIS, WORKER], []
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        adapters = Adapters(http, files, record)
        (await sending(http, _PINNED, content(files[0]))()).raise_for_status()
        before = await said(http)
        client = Client(http, base, adapters, record)
        tasks = [asyncio.create_task(forever(client.ask)) for _ in range(CLIENTS)]
        tasks += [asyncio.create_task(change(adapters)) for _ in range(2)]
        try:
            began, memory, next_kill = time.monotonic(), [], min(KILL_EVERY_S, seconds / 6)
            while (passed := time.monotonic() - began) < seconds:
                await asyncio.sleep(2)
                memory.append((passed / seconds, server_memory_mb(server)))
                failed = next((task for task in tasks if task.done()), None)
                if failed is not None:
                    failed.result()
                if passed > next_kill:
                    victim = victims[len(took) % len(victims)]
                    took.append(await kill(http, server, victim, record))
                    next_kill += min(KILL_EVERY_S, seconds / 6)
                    size = memory[-1][1]
                    print(
                        f"{passed / 60:5.1f} min  {victim} killed, back in {took[-1]:.1f} s, {size:.0f} MB", flush=True
                    )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await ready(http)
        lost, after = await adapters.lost(), await said(http)
    report(record)
    return judge(record, memory, took, lost, after == before)


def report(record: Record) -> None:
    for (asked, outcome), count in sorted(record.outcomes.items()):
        calm = record.calm_failures[asked, outcome]
        print(f"{asked:20} {outcome:14} {count:7}" + (f"   {calm} of them for no reason" if calm else ""), flush=True)


def judge(
    record: Record, memory: Sequence[tuple[float, float]], took: Sequence[float], lost: Sequence[str], same: bool
) -> dict[str, float]:
    first = max(size for share, size in memory if share < 0.25)
    last = max(size for share, size in memory if share > 0.75)
    print(
        f"memory {memory[0][1]:.0f} MB at the start, at most {first:.0f} in the first quarter, {last:.0f} in the last"
    )
    for version in lost:
        print(f"{version} was acknowledged, and is lost")
    counts = record.outcomes
    served = sum(count for (_, outcome), count in counts.items() if outcome in _SERVED)
    refused = sum(count for (_, outcome), count in counts.items() if outcome in _REFUSED)
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
    print_result(result)
    ok = not result["failed"] and not result["lost"] and result["same_answer"] and result["growth_mb"] < GROWTH_MB
    sys.exit(not ok)


if __name__ == "__main__":
    main()
