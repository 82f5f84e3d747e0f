"""Servers that tell each other what they hold, over a real Redis: lists, deaths, promotions, Redis away."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from polyad.adapters_store.errors import LoadFailed, RegistryUnavailable
from polyad.adapters_store.registry import EmbeddedRedis, Registry, Version, VersionDraft
from polyad.serve.compose import Plan
from polyad.serve.service import Fleet, Warming

BASE = "base"
TENANT = "public"


@dataclass
class InMemory:
    version: Version
    leases: int = 0
    loaded: bool = True


@dataclass
class Server:
    """One server's registry and its part in the fleet; what it holds is said by the test."""

    registry: Registry
    fleet: Fleet
    held: list[InMemory]


Start = Callable[..., "asyncio.Future[Server]"]


@pytest.fixture
async def start(redis: EmbeddedRedis) -> AsyncIterator[Start]:
    running: list[Server] = []

    async def started(*held: InMemory, expiry_s: float = 15, base: str = BASE) -> Server:
        registry = Registry(redis.url)
        await registry.start()
        memory = list(held)
        fleet = Fleet(registry, registry.replicas(expiry_s), base, lambda: memory, lambda: "ready")
        fleet.start()
        running.append(Server(registry, fleet, memory))
        return running[-1]

    yield started  # type: ignore[misc]
    for server in running:
        await server.fleet.stop()
        await server.registry.close()


async def add(registry: Registry, name: str, size: int = 1, base: str = BASE, seed: int = 0) -> Version:
    digest = f"{abs(hash((name, seed))):016x}".ljust(64, "0")
    fields = {"rank": 8, "targets": ("q_proj",), "source": "upload"}
    version, _ = await registry.add_version(TENANT, name, VersionDraft(digest=digest, size=size, base=base, **fields))
    return version


async def until(holds: Callable[[], object], seconds: float = 60) -> float:
    began = time.monotonic()
    while not await holds():  # type: ignore[misc]
        assert time.monotonic() - began < seconds, "it did not come true"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def test_servers_see_each_other_and_what_they_hold(start: Start, registry: Registry) -> None:
    one, two = await add(registry, "one"), await add(registry, "two")
    first = await start(InMemory(one, leases=2), InMemory(two, loaded=False))
    second = await start()
    await until(lambda: _count(second, 2))
    seen = {sighting.replica.id: sighting for sighting in await second.fleet.living()}
    assert set(seen) == {first.fleet.id, second.fleet.id}
    held = seen[first.fleet.id].replica.held
    assert [(entry.adapter, entry.tier, entry.requests) for entry in held] == [
        ("two", "loading", 0),
        ("one", "host", 2),
    ]
    assert all(0 <= sighting.age_s < 10 for sighting in seen.values())
    assert {sighting.replica.status for sighting in seen.values()} == {"ready"}


async def _count(server: Server, number: int) -> bool:
    return len(await server.fleet.living()) == number


async def test_who_leaves_is_gone_and_who_dies_is_forgotten(start: Start) -> None:
    watcher, leaver, dead = await start(), await start(), await start()
    await until(lambda: _count(watcher, 3))
    await leaver.fleet.stop()
    await until(lambda: _count(watcher, 2))
    brief = watcher.registry.replicas(0.3)
    assert dead.fleet._task is not None
    dead.fleet._task.cancel()

    async def only_the_living() -> bool:
        return dead.fleet.id not in {sighting.replica.id for sighting in await brief.living()}

    await until(only_the_living)
    await brief.close()


async def test_a_promotion_reaches_every_server_and_is_told_at_once(start: Start, registry: Registry) -> None:
    """The reach is bounded by the wait for news and by the telling of it, not by the heartbeat's period."""
    version = await add(registry, "one")
    servers = [await start() for _ in range(3)]
    await until(lambda: _count(servers[0], 3))
    await registry.set_alias(TENANT, "one", "canary", version.number)
    wanted = registry.snapshot.revision

    async def reached() -> bool:
        return all(sighting.replica.revision >= wanted for sighting in await servers[0].fleet.living())

    await until(reached)
    assert all(server.registry.snapshot.resolve(TENANT, "one", "canary") == version for server in servers)


async def test_redis_away_is_an_error_of_the_list_and_of_nothing_else(start: Start, redis: EmbeddedRedis) -> None:
    server = await start()
    await until(lambda: _count(server, 1))
    await redis.stop()
    with pytest.raises(RegistryUnavailable):
        await server.fleet.living()
    assert server.fleet._task is not None
    assert not server.fleet._task.done()
    await redis.start()
    await until(lambda: _answers(server))


async def _answers(server: Server) -> bool:
    try:
        return len(await server.fleet.living()) == 1
    except RegistryUnavailable:
        return False


async def warmed(server: Server, budget: int = 1000, most: int = 32, bad: str = "") -> list[str]:
    loaded: list[str] = []

    async def warm(plan: Plan) -> None:
        if plan.versions[0].adapter == bad:
            raise LoadFailed("its bytes are gone")
        loaded.append(plan.versions[0].adapter)

    assert await Warming(server.registry, server.fleet, warm, BASE, budget, most).run() == len(loaded)
    return loaded


async def test_pinned_versions_come_first_then_what_most_servers_hold(start: Start, registry: Registry) -> None:
    versions = {name: await add(registry, name) for name in ("a", "b", "c", "d", "pinned")}
    await registry.set_pinned(TENANT, "pinned", 1, True)
    await start(InMemory(versions["b"]), InMemory(versions["c"]))
    await start(InMemory(versions["c"]), InMemory(versions["pinned"]))
    await start(InMemory(versions["d"]), base="another model")
    new = await start()
    await until(lambda: _count(new, 4))
    assert await warmed(new) == ["pinned", "c", "b"]
    assert await warmed(new, most=1) == ["pinned", "c"]
    assert await warmed(new, most=0) == ["pinned"]


async def test_warming_keeps_to_host_memory_and_to_its_base_and_outlives_a_bad_version(
    start: Start, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    for name, size in (("big", 90), ("small", 10), ("more", 20)):
        await add(registry, name, size)
        await registry.set_pinned(TENANT, name, 1, True)
    await add(registry, "foreign", 1, base="another model")
    await registry.set_pinned(TENANT, "foreign", 1, True)
    new = await start()
    assert sorted(await warmed(new, budget=100)) == ["big", "small"]
    assert "not warmed: more@v1: host_cache_bytes is full" in caplog.text
    assert sorted(await warmed(new, budget=1000, bad="small")) == ["big", "more"]
    assert "not warmed: small@v1" in caplog.text
