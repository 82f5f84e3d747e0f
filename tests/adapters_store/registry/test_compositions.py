"""Saved compositions on a real Redis: one atomic step each, on every server, and apart from adapters."""

import asyncio
import os
import random
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from polyad.adapters_store.errors import (
    CompositionChanged,
    Conflict,
    InvalidName,
    PolyadError,
    RegistryUnavailable,
    UnknownAdapter,
    UnknownComposition,
)
from polyad.adapters_store.registry import Change, EmbeddedRedis, Event, Registry, Reloaded, VersionDraft

Draft = Callable[[int], VersionDraft]
Open = Callable[..., Awaitable[Registry]]
Eventually = Callable[[Callable[[], Any]], Awaitable[float]]


def saved(registry: Registry, tenant: str = "acme") -> dict[str, str]:
    return {one.name: one.expression for one in registry.snapshot.compositions(tenant, None, 1000)}


async def test_what_is_saved_comes_back_and_can_be_changed_and_deleted(registry: Registry) -> None:
    first = await registry.set_composition("acme", "helpful", "support*0.7 + tone*0.3")
    assert (first.tenant, first.name, first.expression) == ("acme", "helpful", "support*0.7 + tone*0.3")
    assert registry.snapshot.composition("acme", "helpful") == first
    second = await registry.set_composition("acme", "helpful", "tone")
    assert (second.expression, second.created, second.revision) == ("tone", first.created, 2)
    assert await registry.set_composition("acme", "helpful", "tone") == second
    assert registry.snapshot.revision == 2
    await registry.delete_composition("acme", "helpful")
    assert registry.snapshot.find_composition("acme", "helpful") is None
    with pytest.raises(UnknownComposition, match="'helpful' does not exist"):
        registry.snapshot.composition("acme", "helpful")


async def test_tenants_do_not_see_each_other(registry: Registry, draft: Draft) -> None:
    await registry.set_composition("acme", "helpful", "a")
    await registry.set_composition("globex", "helpful", "b")
    await registry.add_version("initech", "helpful", draft(1))
    assert (saved(registry, "acme"), saved(registry, "globex")) == ({"helpful": "a"}, {"helpful": "b"})
    assert saved(registry, "initech") == {}
    await registry.delete_composition("globex", "helpful")
    assert saved(registry) == {"helpful": "a"}


async def test_adapters_and_compositions_have_different_names(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft
) -> None:
    # The other server may not have heard yet: the step in Redis decides.
    other = await open_registry(redis.url)
    await registry.set_composition("acme", "helpful", "a")
    with pytest.raises(Conflict, match="name: 'helpful' is a saved composition"):
        await other.add_version("acme", "helpful", draft(1), ["canary"])
    await registry.add_version("acme", "support", draft(1))
    with pytest.raises(Conflict, match="name: 'support' is an adapter"):
        await other.set_composition("acme", "support", "a")
    assert registry.snapshot.revision == 2
    await registry.delete_composition("acme", "helpful")
    await registry.delete_adapter("acme", "support")
    await other.add_version("acme", "helpful", draft(1))
    await other.set_composition("acme", "support", "helpful")
    assert saved(other) == {"support": "helpful"}


async def test_of_many_that_want_one_name_one_wins(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft
) -> None:
    other = await open_registry(redis.url)
    calls: list[Awaitable[Any]] = []
    for number in range(10):
        calls.append(registry.set_composition("acme", "wanted", f"a{number}", if_current=None))
        calls.append(other.add_version("acme", "wanted", draft(number)))
    results = await asyncio.gather(*calls, return_exceptions=True)
    won = {number % 2 for number, result in enumerate(results) if not isinstance(result, BaseException)}
    assert len(won) == 1
    assert all(isinstance(result, Conflict) for result in results if isinstance(result, BaseException))


async def test_compare_and_set(registry: Registry) -> None:
    with pytest.raises(CompositionChanged, match="'helpful' does not exist, expected 'a'"):
        await registry.set_composition("acme", "helpful", "b", if_current="a")
    await registry.set_composition("acme", "helpful", "a", if_current=None)
    with pytest.raises(CompositionChanged, match="'helpful' is 'a', expected it to be absent") as changed:
        await registry.set_composition("acme", "helpful", "b", if_current=None)
    assert (changed.value.http_status, changed.value.grpc_status) == (409, "ABORTED")
    with pytest.raises(CompositionChanged, match="'helpful' is 'a', expected 'b'"):
        await registry.set_composition("acme", "helpful", "a", if_current="b")
    await registry.set_composition("acme", "helpful", "b", if_current="a")
    assert saved(registry) == {"helpful": "b"}
    assert registry.snapshot.revision == 2


async def test_of_many_racing_changes_one_wins(redis: EmbeddedRedis, open_registry: Open, registry: Registry) -> None:
    other = await open_registry(redis.url)
    await registry.set_composition("acme", "helpful", "start")
    racers = [
        (registry, other)[number % 2].set_composition("acme", "helpful", f"a{number}", if_current="start")
        for number in range(20)
    ]
    results = await asyncio.gather(*racers, return_exceptions=True)
    assert sum(isinstance(result, CompositionChanged) for result in results) == 19
    winner = next(number for number, result in enumerate(results) if not isinstance(result, BaseException))
    assert saved(await open_registry(redis.url)) == {"helpful": f"a{winner}"}


async def test_what_does_not_exist_is_named_and_nothing_changes(registry: Registry, draft: Draft) -> None:
    await registry.set_composition("acme", "helpful", "a")
    await registry.add_version("acme", "support", draft(1))
    refused: list[tuple[type[PolyadError], Awaitable[Any]]] = [
        (UnknownComposition, registry.delete_composition("acme", "nobody")),
        (UnknownComposition, registry.delete_composition("acme", "support")),
        (UnknownComposition, registry.delete_composition("globex", "helpful")),
        (UnknownAdapter, registry.delete_adapter("acme", "helpful")),
        (UnknownAdapter, registry.set_alias("acme", "helpful", "canary", 1)),
        (InvalidName, registry.set_composition("acme", "../etc", "a")),
        (InvalidName, registry.set_composition("a/b", "helpful", "a")),
    ]
    for error, call in refused:
        with pytest.raises(error):
            await call
    assert registry.snapshot.revision == 2


async def test_pages_by_name(registry: Registry) -> None:
    names = [f"c{number:02d}" for number in range(7)]
    for name in random.Random(1).sample(names, len(names)):
        await registry.set_composition("acme", name, "a")
    walked: list[str] = []
    while page := registry.snapshot.compositions("acme", walked[-1] if walked else None, 3):
        walked += [one.name for one in page]
    assert walked == names


async def test_every_server_hears_of_each_change_once_and_a_restart_sees_the_same(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, eventually: Eventually
) -> None:
    other = await open_registry(redis.url)
    heard: dict[Registry, list[Event]] = {registry: [], other: []}
    for one, events in heard.items():
        one.subscribe(events.append)
    await registry.add_version("acme", "support", draft(1))
    await other.set_composition("acme", "helpful", "support*0.5")
    await registry.set_composition("acme", "helpful", "support*0.6")
    await other.set_composition("acme", "gone", "support")
    await registry.delete_composition("acme", "gone")
    await eventually(lambda: registry.snapshot.revision == other.snapshot.revision == 5)
    restarted = await open_registry(redis.url)
    assert saved(registry) == saved(other) == saved(restarted) == {"helpful": "support*0.6"}
    compositions = [one.snapshot.composition("acme", "helpful") for one in (registry, other, restarted)]
    assert compositions[0] == compositions[1] == compositions[2]
    for events in heard.values():
        changes = [event for event in events if isinstance(event, Change)]
        assert [(change.kind, change.noun, change.removes_versions) for change in changes] == [
            ("version_added", "adapter", False),
            ("composition_set", "composition", False),
            ("composition_set", "composition", False),
            ("composition_set", "composition", False),
            ("composition_deleted", "composition", False),
        ]
        assert changes[-1].record is None and changes[-1].name == "gone"


async def test_without_redis_they_serve_on_and_cannot_be_changed(
    redis: EmbeddedRedis, registry: Registry, eventually: Eventually
) -> None:
    await registry.set_composition("acme", "helpful", "a")
    assert redis.pid is not None
    os.kill(redis.pid, signal.SIGKILL)
    await eventually(lambda: not registry.live)
    for write in (registry.set_composition("acme", "helpful", "b"), registry.delete_composition("acme", "helpful")):
        with pytest.raises(RegistryUnavailable, match="nothing was changed"):
            await write
    assert saved(registry) == {"helpful": "a"}
    await eventually(lambda: registry.live)
    assert saved(registry) == {"helpful": "a"}


@pytest.mark.parametrize("schema", ["1", "2"])
async def test_a_registry_of_an_older_schema_is_taken_over_and_its_servers_stop_writing(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, eventually: Eventually, schema: str
) -> None:
    await registry.add_version("acme", "support", draft(1))
    old = registry.snapshot.birth
    async with Redis.from_url(redis.url, decode_responses=True) as client:
        # As a server of that schema left it, which `registry` stands for from here on.
        await client.hset("{polyad}:meta", "schema", schema)
        new = await open_registry(redis.url)
        assert await client.hget("{polyad}:meta", "schema") == "3"
    assert new.snapshot.adapter("acme", "support") == registry.snapshot.adapter("acme", "support")
    assert (new.snapshot.revision, saved(new)) == (1, {})
    assert new.snapshot.birth != old
    assert new.snapshot.origin == registry.snapshot.origin == old
    with pytest.raises(RegistryUnavailable, match="was replaced"):
        await registry.add_version("acme", "helpful", draft(1))
    await new.set_composition("acme", "helpful", "support")
    again = await open_registry(redis.url)
    assert (again.snapshot.birth, again.snapshot.origin) == (new.snapshot.birth, old)
    heard: list[Event] = []
    registry.subscribe(heard.append)
    await eventually(lambda: saved(registry) == {"helpful": "support"})
    assert isinstance(heard[0], Reloaded)


async def test_random_operations_agree_with_a_plain_model(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, eventually: Eventually
) -> None:
    writers = (registry, await open_registry(redis.url))
    chance = random.Random(11)
    compositions: dict[str, str] = {}
    adapters: set[str] = set()
    for step in range(200):
        name, writer = chance.choice("abcd"), chance.choice(writers)
        call, outcome = _step(writer, draft, compositions, adapters, name, step, chance.randrange(5))
        try:
            await call
            happened = None
        except PolyadError as error:
            happened = type(error)
        assert happened is outcome
    fresh = await open_registry(redis.url)
    await eventually(lambda: len({one.snapshot.revision for one in (*writers, fresh)}) == 1)
    for one in (*writers, fresh):
        assert saved(one) == compositions
        assert {adapter.name for adapter in one.snapshot.page("acme", None, 10)} == adapters


def _step(
    writer: Registry,
    draft: Draft,
    compositions: dict[str, str],
    adapters: set[str],
    name: str,
    step: int,
    operation: int,
) -> tuple[Awaitable[Any], type[PolyadError] | None]:
    taken = name in adapters
    if operation == 0:
        if name not in compositions:
            adapters.add(name)
        return writer.add_version("acme", name, draft(step)), Conflict if name in compositions else None
    if operation == 1:
        adapters.discard(name)
        return writer.delete_adapter("acme", name), None if taken else UnknownAdapter
    if operation == 2:
        known = compositions.pop(name, None) is not None
        return writer.delete_composition("acme", name), None if known else UnknownComposition
    current = compositions.get(name)
    if operation == 3 and current is not None:
        call = writer.set_composition("acme", name, f"x{step}", if_current=f"not {current}")
        return call, CompositionChanged
    if not taken:
        compositions[name] = f"x{step}"
    return writer.set_composition("acme", name, f"x{step}"), Conflict if taken else None
