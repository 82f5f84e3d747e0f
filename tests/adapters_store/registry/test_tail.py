import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.registry import EmbeddedRedis, Event, Registry, Reloaded, VersionDraft

Draft = Callable[[int], VersionDraft]
Open = Callable[..., Awaitable[Registry]]
Eventually = Callable[[Callable[[], Any]], Awaitable[float]]


def _kill(redis: EmbeddedRedis, number: int = signal.SIGKILL) -> None:
    assert redis.pid is not None
    os.kill(redis.pid, number)


async def test_a_second_server_and_a_restart_see_the_same(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, eventually: Eventually
) -> None:
    other = await open_registry(redis.url)
    apart = await open_registry(redis.url, namespace="apart")
    await registry.add_version("acme", "support", draft(1))
    await other.add_version("acme", "support", draft(2), ["production"])
    assert other.snapshot.resolve("acme", "support", "previous").number == 1
    assert await eventually(lambda: registry.snapshot.revision == 2) < 0.5
    restarted = await open_registry(redis.url)
    adapters = [one.snapshot.adapter("acme", "support") for one in (registry, other, restarted)]
    assert adapters[0] == adapters[1] == adapters[2]
    assert apart.snapshot.page("acme", None, 10) == []
    assert registry.last_event_id == "2-0" and registry.lag < 2


async def test_without_redis_resolve_works_and_writes_fail_at_once(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, eventually: Eventually
) -> None:
    other = await open_registry(redis.url)
    heard: list[Event] = []
    registry.subscribe(heard.append)
    await other.add_version("acme", "support", draft(1))
    await eventually(lambda: registry.snapshot.revision == 1)
    _kill(redis)
    assert await eventually(lambda: not registry.live) < 0.5
    began = time.perf_counter()
    with pytest.raises(RegistryUnavailable, match="nothing was changed"):
        await registry.add_version("acme", "support", draft(2))
    assert time.perf_counter() - began < 0.05
    assert registry.snapshot.resolve("acme", "support").number == 1
    await eventually(lambda: registry.live and other.live)
    await other.add_version("acme", "support", draft(2))
    await eventually(lambda: 2 in registry.snapshot.adapter("acme", "support").versions)
    assert [type(event) for event in heard].count(Reloaded) == 1
    assert heard[-1].revision == 2


async def test_a_stopped_redis_is_noticed_and_nothing_waits_long(
    redis: EmbeddedRedis, registry: Registry, draft: Draft, eventually: Eventually
) -> None:
    await registry.add_version("acme", "support", draft(1))
    _kill(redis, signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(RegistryUnavailable, match="unknown"):
            await registry.add_version("acme", "support", draft(2))
        assert time.monotonic() - began > 0.9
        await eventually(lambda: not registry.live)
        assert registry.snapshot.resolve("acme", "support").number == 1
    finally:
        _kill(redis, signal.SIGCONT)
    await eventually(lambda: registry.live)
    # The outcome really was unknown: the change was in the socket and happened when the server went on.
    await eventually(lambda: 2 in registry.snapshot.adapter("acme", "support").versions)


async def test_a_kill_loses_nothing_that_was_acknowledged(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, eventually: Eventually
) -> None:
    acknowledged: list[int] = []

    async def write(lane: int) -> None:
        for seed in range(lane, 10_000, 4):
            await registry.add_version("acme", f"lane{lane}", draft(seed))
            acknowledged.append(seed)

    lanes = [asyncio.create_task(write(lane)) for lane in range(4)]
    await eventually(lambda: len(acknowledged) > 150)
    _kill(redis)
    results = await asyncio.gather(*lanes, return_exceptions=True)
    assert all(isinstance(result, RegistryUnavailable) for result in results)
    await eventually(lambda: registry.live)
    fresh = await open_registry(redis.url)
    assert {draft(seed).digest for seed in acknowledged} <= fresh.snapshot.digests()
    assert fresh.snapshot.digests() == registry.snapshot.digests()


@pytest.mark.parametrize("command", ["FLUSHALL", "restart"])
async def test_a_wiped_redis_is_read_again(
    command: str, redis: EmbeddedRedis, registry: Registry, draft: Draft, eventually: Eventually
) -> None:
    for seed in (1, 2, 3):
        await registry.add_version("acme", "support", draft(seed))
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
    if command == "restart":
        _kill(redis)
        await eventually(lambda: not registry.live)
    else:
        with pytest.raises(RegistryUnavailable, match="replaced"):
            await registry.add_version("acme", "support", draft(4))
    await eventually(lambda: registry.live and registry.snapshot.revision == 0)
    assert registry.snapshot.digests() == set()
    version, _ = await registry.add_version("acme", "support", draft(4))
    assert (version.number, registry.snapshot.revision) == (1, 1)


async def test_a_trimmed_stream_leads_to_a_reload(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, eventually: Eventually
) -> None:
    other = await open_registry(redis.url)
    heard: list[Event] = []
    registry.subscribe(heard.append)
    await registry.add_version("acme", "support", draft(1))
    async with Redis.from_url(redis.url) as client:
        # As if both had slept while more events came than the stream keeps.
        await client.hincrby("{polyad}:meta", "revision", 5)
    with pytest.raises(RegistryUnavailable, match="does not follow"):
        await other.add_version("acme", "support", draft(3))
    await eventually(lambda: registry.live and other.live and registry.snapshot.revision == 7)
    await eventually(lambda: other.snapshot.revision == 7)
    assert registry.snapshot.adapter("acme", "support") == other.snapshot.adapter("acme", "support")
    assert any(isinstance(event, Reloaded) for event in heard)


async def test_an_answer_that_never_comes_is_reported_as_unknown_and_not_sent_twice(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, proxy: Any
) -> None:
    through = await open_registry(proxy.url)
    await through.add_version("acme", "support", draft(1))
    proxy.cut_answers_to(b"EVAL")
    with pytest.raises(RegistryUnavailable, match="unknown"):
        await through.add_version("acme", "support", draft(2))
    assert proxy.seen(b"EVAL") == 1
    assert (await registry.add_version("acme", "support", draft(2)))[1] is False


async def test_ten_thousand_adapters_load_quickly(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft
) -> None:
    header = '{{"tenant":"acme","name":"a{n}","created":1,"revision":1,"aliases":{{"production":1}},"pins":{{}}}}'
    async with Redis.from_url(redis.url) as client:
        adapters: dict[Any, Any] = {f"acme/a{n}": header.format(n=n) for n in range(10_000)}
        versions: dict[Any, Any] = {
            f"acme/a{n}/1": f'{{"number":1,"tenant":"acme","adapter":"a{n}","created":1,'
            + draft(n).model_dump_json()[1:]
            for n in range(10_000)
        }
        await client.hset("{polyad}:adapters", mapping=adapters)
        await client.hset("{polyad}:versions", mapping=versions)
    began = time.perf_counter()
    loaded = await open_registry(redis.url)
    assert time.perf_counter() - began < 3
    assert loaded.snapshot.resolve("acme", "a9999").digest == draft(9999).digest
