"""Three servers and a learning worker on one Redis and one folder of adapters, behind a reverse proxy, under load.

`make demo-fleet` shows, with times: a promotion reaches all servers; a merge that all are asked for is computed once;
feedback on all of them makes one run; the worker, a server, Redis, and then every server in turn are killed or
restarted, and one server is cut from Redis for a minute, while requests run. Ends 0 only if every step held what it
promises. Needs 10 GB of memory.
"""

import argparse
import asyncio
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
from fleet_checks import WAIT_S, Failed, check, until
from fleet_cut import one_server_cut
from fleet_learning import one_run_for_all
from fleet_load import REST_S, Load
from fleet_merging import one_merge_for_all
from fleet_processes import Learner, Proxy, ServedFleet
from fleet_promotions import promotions, redis_away, redis_killed
from fleet_relay import Relay

from polyad.adapters_store.registry import EmbeddedRedis
from polyad.serve.example import unpack_base_model

BASE_MODELS = Path(__file__).parent.parent / ".state/base-models"
SERVERS = 3
AWAY_S = 5.0

Step = Callable[[], Awaitable[None]]


async def show_fleet(fleet: ServedFleet) -> None:
    async def all_listed() -> bool:
        return len(await fleet.replicas()) == SERVERS

    await until(all_listed, WAIT_S, "GET /v1/replicas lists every server")
    for replica in await fleet.replicas():
        held = ", ".join(f"{one['adapter']}@{one['version']} ({one['tier']})" for one in replica["held"]) or "nothing"
        print(f"   {replica['id']}: {replica['status']}, revision {replica['revision']}, holds {held}", flush=True)


async def server_killed(fleet: ServedFleet, client: httpx.AsyncClient) -> None:
    async with Load(client, REST_S).running() as load:
        victim = fleet.servers[0]
        await victim.kill()
        back = await victim.start()
    check(f"no request failed, the proxy asked another server: {load.told()}", not load.errors)
    warm = victim.heard("in host memory")
    check(f"ready again after {back:.0f} s, and warm: {warm}", bool(warm))


async def rolling_restart(fleet: ServedFleet, proxy: Proxy, client: httpx.AsyncClient) -> None:
    async with Load(client, REST_S).running() as load:
        for server in fleet.servers:
            code = await server.stop()
            check(f"{server.name} ended with 0", code == 0)
            await server.start()
            await until(lambda: proxy.serves(SERVERS), WAIT_S, "the proxy sees every server")
    check(f"no request failed: {load.told()}", not load.errors)


async def tour(fleet: ServedFleet, redis: EmbeddedRedis, relay: Relay, proxy: Proxy) -> None:
    async with httpx.AsyncClient(base_url=proxy.url, timeout=120, trust_env=False) as client:
        steps: tuple[tuple[str, Step], ...] = (
            (f"{SERVERS} servers, which know each other", lambda: show_fleet(fleet)),
            ("Promotions under load", lambda: promotions(fleet, client)),
            ("One merge, asked of all servers at once", lambda: one_merge_for_all(fleet)),
            ("Feedback on all servers; the worker is killed (SIGKILL)", lambda: one_run_for_all(fleet, client)),
            ("A server is killed (SIGKILL) and comes back", lambda: server_killed(fleet, client)),
            ("Redis is killed (SIGKILL)", lambda: redis_killed(fleet, redis, client)),
            (f"Redis is stopped for {AWAY_S:g} s", lambda: redis_away(fleet, redis, client, AWAY_S)),
            ("One server is cut from Redis for a minute", lambda: one_server_cut(fleet, relay, client)),
            ("A rolling restart (SIGTERM, one after the other)", lambda: rolling_restart(fleet, proxy, client)),
        )
        for number, (title, step) in enumerate(steps, 1):
            print(f"\n{number}. {title}", flush=True)
            await step()


async def run(proxy_command: list[str]) -> None:
    if (task := asyncio.current_task()) is not None:
        # Or a demo that is ended would leave its servers behind.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    base = unpack_base_model(BASE_MODELS, print)
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="polyad-fleet-")))
        redis = EmbeddedRedis(scratch / "redis")
        await redis.start()
        stack.push_async_callback(redis.stop)
        relay = Relay(redis.url.removeprefix("unix://"))
        await relay.start()
        stack.push_async_callback(relay.stop)
        ways = [redis.url] * (SERVERS - 1) + [relay.url]
        learner = Learner(scratch, redis.url, base)
        fleet = await stack.enter_async_context(ServedFleet(scratch, ways, BASE_MODELS, learner))
        proxy = await stack.enter_async_context(
            Proxy(proxy_command, scratch, [server.port for server in fleet.servers])
        )
        await until(lambda: proxy.serves(SERVERS), WAIT_S, "the proxy sees every server")
        await tour(fleet, redis, relay, proxy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proxy", default="haproxy", help="command line of HAProxy")
    began = time.monotonic()
    try:
        asyncio.run(run(shlex.split(parser.parse_args().proxy)))
    except Failed as error:
        sys.exit(f"\ndemo-fleet: {error}")
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    print(f"\nEvery step held what it promises: {time.monotonic() - began:.0f} s.", flush=True)


if __name__ == "__main__":
    main()
