"""One server is cut from Redis, first so that it is refused, then so that nothing comes back: what its clients see."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
from fleet_checks import WAIT_S, check, until
from fleet_load import ADAPTER, ANSWER_S, Load, question
from fleet_processes import ServedFleet, Serving
from fleet_promotions import known_to, promote
from fleet_relay import Relay

CUT_S = 30.0
NOTICED_S = 5.0
HEALED_S = 5.0
_ASK_EVERY_S = 0.5
_WRITE_EVERY_S = 1.0
_TRIAL = f"/v1/adapters/{ADAPTER}/aliases/trial"


@dataclass
class Watch:
    """Clients of one server that ask it, and try to write, again and again."""

    server: Serving
    asked_s: list[float] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    written_s: list[float] = field(default_factory=list)
    written: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Watch"]:
        stop = asyncio.Event()
        acts = ((self._ask, _ASK_EVERY_S), (self._write, _WRITE_EVERY_S))
        tasks = [asyncio.create_task(_until(stop, act, pause)) for act, pause in acts]
        try:
            yield self
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _ask(self) -> None:
        began = time.monotonic()
        answer = await self.server.client.post("/v1/chat/completions", json=question(ADAPTER), timeout=ANSWER_S)
        self.asked_s.append(time.monotonic() - began)
        self.answered[answer.json()["model"] if answer.is_success else f"{answer.status_code} {answer.text[:200]}"] += 1

    async def _write(self) -> None:
        began = time.monotonic()
        answer = await self.server.client.put(_TRIAL, json={"version": "v1"})
        self.written_s.append(time.monotonic() - began)
        self.written[str(answer.status_code)] += 1


async def _until(stop: asyncio.Event, act: Callable[[], Awaitable[None]], pause_s: float) -> None:
    while not stop.is_set():
        await act()
        await asyncio.sleep(pause_s)


async def one_server_cut(fleet: ServedFleet, relay: Relay, client: httpx.AsyncClient) -> None:
    """The last server reaches Redis through the relay; the load comes through the proxy."""
    ways = (("refused, its connections closed", relay.refuse), ("silent, its connections open", relay.hush))
    async with Load(client).running() as load:
        for number, (how, cut) in enumerate(ways):
            print(f"   {fleet.servers[-1].name} is cut for {CUT_S:g} s: {how}", flush=True)
            await _cut(fleet, relay, cut, before=("v1", "v2")[number], after=("v2", "v1")[number])
    answered = ", ".join(f"{count} by {model}" for model, count in sorted(load.answered.items()))
    check(f"no request through the proxy failed: {load.told()}; {answered}", not load.errors)


async def _cut(fleet: ServedFleet, relay: Relay, cut: Callable[[], Awaitable[None]], before: str, after: str) -> None:
    *others, victim = fleet.servers
    began = time.monotonic()
    await cut()
    async with Watch(victim).running() as watch:
        noticed = await until(lambda: victim.says("degraded"), WAIT_S, f"{victim.name} says degraded")
        check(f"/ready says degraded {noticed:.1f} s after the cut", noticed < NOTICED_S)
        await promote(others[0].client, after)
        reach = max(await asyncio.gather(*(known_to(server, after) for server in others)))
        print(f"   {ADAPTER}@{after} is promoted: the others knew after {1000 * reach:.0f} ms", flush=True)
        await asyncio.sleep(CUT_S - (time.monotonic() - began))
        check("it is still degraded at the end", await victim.says("degraded"))
    _check_clients(watch, before)
    await relay.heal()
    knew = await known_to(victim, after, HEALED_S)
    ready = knew + await until(lambda: victim.says("ready"), HEALED_S, f"{victim.name} says ready")
    check(f"it knew the promotion {knew:.1f} s after the cut's end, and said ready after {ready:.1f} s", True)
    await _check_writes(victim)


def _check_clients(watch: Watch, before: str) -> None:
    answers, writes = sum(watch.answered.values()), sum(watch.written.values())
    said = f"all of its {answers} answers came from {ADAPTER}@{before}, which it knew, the slowest after"
    check(f"{said} {max(watch.asked_s):.1f} s: {dict(watch.answered)}", set(watch.answered) == {f"{ADAPTER}@{before}"})
    said = f"all of {writes} writes were told 503, the slowest after"
    check(f"{said} {max(watch.written_s):.1f} s: {dict(watch.written)}", set(watch.written) == {"503"})


async def _check_writes(victim: Serving) -> None:
    aliases = (await victim.get(f"/v1/adapters/{ADAPTER}"))["aliases"]
    late = "one arrived late, as a 503 may" if "trial" in aliases else "none happened"
    print(f"   of the writes that it refused, {late}", flush=True)
    answer = await victim.client.put(_TRIAL, json={"version": "v1"})
    check(f"it takes writes again: {answer.status_code}", answer.is_success)
    (await victim.client.delete(_TRIAL)).raise_for_status()
