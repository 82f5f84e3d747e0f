"""Three servers on one Redis and one folder of adapters, behind a reverse proxy, under load. `make demo-fleet`.

Shows, with times: a promotion reaches all servers; a server, Redis, and then every server in turn are killed or
restarted while requests run. Ends 0 only if every step held what it promises. Needs 8 GB of memory.
"""

import argparse
import asyncio
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fleet_processes import Proxy, ServedFleet, Serving

from polyad.adapters_store.registry import EmbeddedRedis

HERE = Path(__file__).parent
ADAPTER, OTHER = "robot", "helpdesk"
SERVERS = 3
CLIENTS = 2
PROMOTIONS = 12
REACH_S = 2.0
WAIT_S = 60.0
QUESTION = {
    "model": ADAPTER,
    "messages": [{"role": "user", "content": "Do you eat?"}],
    "max_tokens": 4,
    "temperature": 0,
}


class Failed(Exception):
    """A step did not do what it promises."""


def check(promise: str, held: bool) -> None:
    """Print what was promised and whether it held. Raises Failed."""
    print(f"   {'ok' if held else 'FAILED'}: {promise}", flush=True)
    if not held:
        raise Failed(promise)


async def until(holds: Callable[[], Any], seconds: float, what: str) -> float:
    """Wait until a coroutine answers true; the seconds that it took. Raises Failed."""
    began = time.monotonic()
    while not await holds():
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(0.01)
    return time.monotonic() - began


@dataclass
class Load:
    """Clients that ask one question again and again through the proxy."""

    client: httpx.AsyncClient
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._ask_until(stop)) for _ in range(CLIENTS)]
        try:
            yield self
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _ask_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                answer = await self.client.post("/v1/chat/completions", json=QUESTION)
                if answer.status_code != httpx.codes.OK:
                    self.errors.append(f"{answer.status_code} {answer.text[:200]}")
            except httpx.HTTPError as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            self.seconds.append(time.monotonic() - began)

    def told(self) -> str:
        slowest = max(self.seconds, default=0)
        return f"{len(self.seconds)} requests, slowest {slowest:.1f} s, failed: {self.errors or 'none'}"


async def show_fleet(fleet: ServedFleet) -> None:
    async def all_listed() -> bool:
        return len(await fleet.replicas()) == SERVERS

    await until(all_listed, WAIT_S, "GET /v1/replicas lists every server")
    for replica in await fleet.replicas():
        held = ", ".join(f"{one['adapter']}@{one['version']} ({one['tier']})" for one in replica["held"]) or "nothing"
        print(f"   {replica['id']}: {replica['status']}, revision {replica['revision']}, holds {held}", flush=True)


async def promote(fleet: ServedFleet, proxy: httpx.AsyncClient) -> list[float]:
    """Promote back and forth; how long after the answer the last server knew of it."""
    folder = HERE.parent / "serve/example/adapters" / OTHER
    files = {name: (folder / file).read_bytes() for name, file in
             (("config", "adapter_config.json"), ("weights", "adapter_model.safetensors"))}  # fmt: skip
    pushed = await proxy.post("/v1/adapters", data={"name": ADAPTER}, files=files)
    check(f"a second version of {ADAPTER} is pushed through the proxy", pushed.status_code in (200, 201))
    reach = []
    for number in range(PROMOTIONS):
        wanted = ("v2", "v1")[number % 2]
        answer = await proxy.put(f"/v1/adapters/{ADAPTER}/aliases/production", json={"version": wanted})
        answer.raise_for_status()
        began = time.monotonic()
        await asyncio.gather(*(_knows(server, wanted) for server in fleet.servers))
        reach.append(time.monotonic() - began)
    return reach


async def _knows(server: Serving, version: str) -> None:
    async def promoted() -> bool:
        answer = await server.client.get(f"/v1/adapters/{ADAPTER}")
        return bool(answer.json()["aliases"]["production"] == version)

    await until(promoted, REACH_S, f"server {server.number} knows {ADAPTER}@{version}")


async def tour(fleet: ServedFleet, redis: EmbeddedRedis, proxy: Proxy) -> None:
    async with httpx.AsyncClient(base_url=proxy.url, timeout=120, trust_env=False) as client:
        print(f"\n1. {SERVERS} servers, which know each other", flush=True)
        await show_fleet(fleet)

        print(f"\n2. {PROMOTIONS} promotions under load", flush=True)
        async with Load(client).running() as load:
            reach = await promote(fleet, client)
        check(f"all servers knew within {REACH_S:g} s: median {1000 * statistics.median(reach):.0f} ms, "
              f"slowest {1000 * max(reach):.0f} ms after the answer", max(reach) < REACH_S)  # fmt: skip
        check(f"no request failed: {load.told()}", not load.errors)

        print("\n3. A server is killed (SIGKILL) and comes back", flush=True)
        async with Load(client).running() as load:
            victim = fleet.servers[0]
            await victim.kill()
            back = await victim.start()
        check(f"no request failed, the proxy asked another server: {load.told()}", not load.errors)
        warm = next((one for one in victim.said if "in host memory" in one), "")
        check(f"ready again after {back:.0f} s, and warm: {warm}", bool(warm))

        print("\n4. Redis is stopped for five seconds", flush=True)
        async with Load(client).running() as load:
            await redis.stop()
            await until(lambda: fleet.all_say("degraded"), WAIT_S, "all servers say degraded")
            await asyncio.sleep(5)
            await redis.start()
            healed = await until(lambda: fleet.all_say("ready"), WAIT_S, "all servers say ready")
        check(f"no request failed: {load.told()}", not load.errors)
        check(f"all servers are in touch again {healed:.1f} s after its start", healed < WAIT_S)

        print("\n5. A rolling restart (SIGTERM, one after the other)", flush=True)
        async with Load(client).running() as load:
            for server in fleet.servers:
                code = await server.stop()
                check(f"server {server.number} ended with 0", code == 0)
                await server.start()
                await until(lambda: proxy.serves(SERVERS), WAIT_S, "the proxy sees every server")
        check(f"no request failed: {load.told()}", not load.errors)


async def run(proxy_command: list[str]) -> None:
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="polyad-fleet-")))
        redis = EmbeddedRedis(scratch / "redis")
        await redis.start()
        stack.push_async_callback(redis.stop)
        fleet = await stack.enter_async_context(
            ServedFleet(scratch, redis.url, SERVERS, HERE.parent / ".state/base-models")
        )
        proxy = await stack.enter_async_context(
            Proxy(proxy_command, scratch, [server.port for server in fleet.servers])
        )
        await until(lambda: proxy.serves(SERVERS), WAIT_S, "the proxy sees every server")
        await tour(fleet, redis, proxy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proxy", default="haproxy", help="command line of HAProxy")
    try:
        asyncio.run(run(shlex.split(parser.parse_args().proxy)))
    except Failed as error:
        sys.exit(f"\ndemo-fleet: {error}")
    print("\nEvery step held what it promises.", flush=True)


if __name__ == "__main__":
    main()
