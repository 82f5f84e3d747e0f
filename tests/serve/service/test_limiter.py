"""Limits hold for two servers on one Redis together, and for each alone while it is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from polyad.adapters_store.errors import LimitReached, RegistryUnavailable
from polyad.adapters_store.registry import EmbeddedRedis, Limits, Registry
from polyad.serve.service import Limiter

START = 1_000_000 * 60.0


@dataclass
class Pair:
    """Two servers, and the clock that both read."""

    registries: list[Registry]
    now: float = START
    limiters: list[Limiter] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.limiters = [Limiter(one, lambda: self.now) for one in self.registries]

    async def limit(self, limits: Limits) -> None:
        await self.registries[0].set_limits("acme", limits)
        for _ in range(1000):
            await asyncio.sleep(0.005)
            known = self.registries[1].snapshot.limits("acme")
            if known.model_dump(include=set(Limits.model_fields)) == limits.model_dump():
                return
        raise AssertionError("the other server did not hear of it")

    async def exchange(self) -> None:
        for _ in range(2):
            for limiter in self.limiters:
                await limiter.exchange()


@pytest.fixture
async def pair(redis: EmbeddedRedis) -> AsyncIterator[Pair]:
    registries = [Registry(redis.url), Registry(redis.url)]
    for one in registries:
        await one.start()
    yield Pair(registries)
    for one in registries:
        await one.close()


async def test_requests_of_a_minute(pair: Pair) -> None:
    await pair.limit(Limits(requests_per_minute=3))
    one, other = pair.limiters
    pair.now = START + 20
    for limiter in (one, one, other):
        with limiter.running("acme"):
            pass
        await pair.exchange()
    for limiter in (one, other):
        with (
            pytest.raises(LimitReached, match="requests_per_minute: got 4, allowed: at most 3") as refused,
            limiter.running("acme"),
        ):
            pass
        assert refused.value.retry_after_s == 40
        with limiter.running("else"):
            pass
    pair.now = START + 60
    for limiter in (one, other):
        with limiter.running("acme"):
            pass


async def test_requests_that_run(pair: Pair) -> None:
    await pair.limit(Limits(max_running=2))
    one, other = pair.limiters
    with ExitStack() as running:
        running.enter_context(one.running("acme"))
        running.enter_context(other.running("acme"))
        await pair.exchange()
        for limiter in (one, other):
            with pytest.raises(LimitReached, match="max_running: got 3, allowed: at most 2"), limiter.running("acme"):
                pass
    await pair.exchange()
    with other.running("acme"), other.running("acme"):
        pass


async def test_without_redis_each_counts_alone(pair: Pair, redis: EmbeddedRedis) -> None:
    await pair.limit(Limits(max_running=1))
    one, other = pair.limiters
    with one.running("acme"):
        await pair.exchange()
        await redis.stop()
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if not any(registry.live for registry in pair.registries):
                break
        with pytest.raises(RegistryUnavailable):
            await other.exchange()
        task = asyncio.create_task(other.share())
        await asyncio.sleep(0.01)
        with other.running("acme"):
            pass
        with pytest.raises(LimitReached), one.running("acme"):
            pass
        task.cancel()


async def test_nothing_is_kept_of_who_asks_no_more(pair: Pair) -> None:
    one, _ = pair.limiters
    for number in range(100):
        with one.running(f"tenant-{number}"):
            pass
    pair.now = START + 120
    with one.running("acme"):
        assert (dict(one._begun), dict(one._running)) == ({"acme": 1}, {"acme": 1})
