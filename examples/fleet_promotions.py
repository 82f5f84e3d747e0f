"""Promotions, which reach all servers; and the one that Redis, killed right behind it, still has."""

import asyncio
import os
import signal
import statistics
import time
from pathlib import Path

import httpx
from fleet_checks import WAIT_S, Failed, check, until
from fleet_load import ADAPTER, OTHER, Load
from fleet_processes import ServedFleet, Serving

from polyad.adapters_store.registry import EmbeddedRedis

PROMOTIONS = 12
PACE_S = 0.5
REACH_S = 2.0
_ALIAS = f"/v1/adapters/{ADAPTER}/aliases/production"


def files_of(adapter: str) -> dict[str, bytes]:
    """The files of one of the example's adapters, as a push wants them."""
    folder = Path(__file__).parent.parent / "serve/example/adapters" / adapter
    names = (("config", "adapter_config.json"), ("weights", "adapter_model.safetensors"))
    return {name: (folder / file).read_bytes() for name, file in names}


async def promote(client: httpx.AsyncClient, version: str) -> None:
    """Raises httpx.HTTPError."""
    (await client.put(_ALIAS, json={"version": version})).raise_for_status()


async def known_to(server: Serving, version: str, seconds: float = REACH_S) -> float:
    """Wait until a server knows a promotion; the seconds that it took. Raises Failed."""

    async def promoted() -> bool:
        return await server.production(ADAPTER) == version

    return await until(promoted, seconds, f"{server.name} knows {ADAPTER}@{version}")


async def promotions(fleet: ServedFleet, client: httpx.AsyncClient) -> None:
    """Promote back and forth; how long after the answer the last server knew of it."""
    pushed = await client.post("/v1/adapters", data={"name": ADAPTER}, files=files_of(OTHER))
    check(f"a second version of {ADAPTER} is pushed through the proxy", pushed.status_code in (200, 201))
    reach = []
    async with Load(client).running() as load:
        for number in range(PROMOTIONS):
            wanted = ("v2", "v1")[number % 2]
            await promote(client, wanted)
            began = time.monotonic()
            await asyncio.gather(*(known_to(server, wanted) for server in fleet.servers))
            reach.append(time.monotonic() - began)
            await asyncio.sleep(PACE_S)
    check(f"all servers knew within {REACH_S:g} s: median {1000 * statistics.median(reach):.0f} ms, "
          f"slowest {1000 * max(reach):.0f} ms after the answer", max(reach) < REACH_S)  # fmt: skip
    check(f"no request failed: {load.told()}", not load.errors)


async def redis_killed(fleet: ServedFleet, redis: EmbeddedRedis, client: httpx.AsyncClient) -> None:
    """SIGKILL right behind the answer to a promotion; whoever runs Redis starts it again at once."""
    async with Load(client).running() as load:
        await promote(fleet.servers[0].client, "v2")
        killed = redis.pid
        if killed is None:
            raise Failed("Redis does not run")
        os.kill(killed, signal.SIGKILL)
        began = time.monotonic()
        await asyncio.gather(*(_written_through(server, "v2") for server in fleet.servers))
        healed = time.monotonic() - began
        check(f"all servers could write again {healed:.1f} s after it, and Redis still had the promotion", True)
        await promote(fleet.servers[0].client, "v1")
        await asyncio.gather(*(known_to(server, "v1") for server in fleet.servers))
    check(f"no request failed: {load.told()}", not load.errors)
    check(f"the worker is still there, and Redis is another process: {redis.pid}, not {killed}",
          fleet.learner.running and redis.pid != killed)  # fmt: skip


async def _written_through(server: Serving, version: str) -> None:
    """Wait until a server's compare-and-set finds in Redis that a version is in production, and leaves it there."""

    async def found() -> bool:
        answer = await server.client.put(_ALIAS, json={"version": version, "if_current": version})
        if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            return False
        check(f"{server.name} finds {version} in production: {answer.status_code}", answer.is_success)
        return True

    await until(found, WAIT_S, f"{server.name} can write")


async def redis_away(fleet: ServedFleet, redis: EmbeddedRedis, client: httpx.AsyncClient, seconds: float) -> None:
    """Redis is stopped, and started again after a while."""
    async with Load(client).running() as load:
        await redis.stop()
        await until(lambda: fleet.all_say("degraded"), WAIT_S, "all servers say degraded")
        await asyncio.sleep(seconds)
        await redis.start()
        healed = await until(lambda: fleet.all_say("ready"), WAIT_S, "all servers say ready")
    check(f"no request failed: {load.told()}", not load.errors)
    check(f"all servers are in touch again {healed:.1f} s after its start", healed < WAIT_S)
