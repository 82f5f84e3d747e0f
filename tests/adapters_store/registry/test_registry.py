import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from polyad.adapters_store.errors import (
    AliasMoved,
    ConfigError,
    InvalidName,
    PolyadError,
    RegistryUnavailable,
    UnknownAdapter,
    UnknownAlias,
    UnknownVersion,
    VersionInUse,
)
from polyad.adapters_store.registry import Change, EmbeddedRedis, Event, Registry, VersionDraft

Draft = Callable[[int], VersionDraft]
Open = Callable[..., Awaitable[Registry]]


async def test_the_first_version_is_production_and_every_field_comes_back(registry: Registry, draft: Draft) -> None:
    version, created = await registry.add_version("acme", "support", draft(1))
    assert created
    assert version.model_dump(include=set(VersionDraft.model_fields)) == draft(1).model_dump()
    assert (version.tenant, version.adapter, version.number, version.label) == ("acme", "support", 1, "v1")
    assert version.targets == ("q_proj", "v_proj")
    assert registry.snapshot.resolve("acme", "support") == version
    second, _ = await registry.add_version("acme", "support", draft(2))
    assert second.number == 2
    assert registry.snapshot.resolve("acme", "support") == version


def test_a_record_from_before_there_were_kinds_is_a_lora(draft: Draft) -> None:
    kept = draft(1).model_dump(exclude={"kind"})
    assert VersionDraft.model_validate(kept).kind == "lora"
    assert VersionDraft.model_validate({**kept, "kind": "ia3"}).kind == "ia3"


async def test_the_same_digest_again_is_the_same_version_and_moves_aliases(registry: Registry, draft: Draft) -> None:
    first, _ = await registry.add_version("acme", "support", draft(1))
    await registry.set_pinned("acme", "support", 1, True)
    before = registry.snapshot.revision
    again, created = await registry.add_version("acme", "support", draft(1))
    assert (again, created) == (first.model_copy(update={"pinned": True}), False)
    assert registry.snapshot.revision == before
    await registry.add_version("acme", "support", draft(1), ["canary"])
    assert registry.snapshot.adapter("acme", "support").aliases == {"production": 1, "canary": 1}
    other, created = await registry.add_version("globex", "support", draft(1))
    assert created and other.number == 1


async def test_empty_targets_and_large_sizes_survive_the_script(registry: Registry, draft: Draft) -> None:
    odd = draft(1).model_copy(update={"targets": (), "size": 2**53 + 1, "source": 'hf://a/b "ü" \n%d'})
    version, _ = await registry.add_version("acme", "odd", odd)
    assert (version.targets, version.size, version.source) == ((), 2**53 + 1, 'hf://a/b "ü" \n%d')


async def test_numbers_are_never_reused(registry: Registry, draft: Draft) -> None:
    for seed in (1, 2, 3):
        await registry.add_version("acme", "support", draft(seed))
    await registry.delete_version("acme", "support", 3)
    again, created = await registry.add_version("acme", "support", draft(3))
    assert (again.number, created) == (4, True)
    await registry.delete_adapter("acme", "support")
    with pytest.raises(UnknownAdapter):
        registry.snapshot.adapter("acme", "support")
    reborn, created = await registry.add_version("acme", "support", draft(1))
    assert (reborn.number, created) == (5, True)
    adapter = registry.snapshot.adapter("acme", "support")
    assert (adapter.aliases, set(adapter.versions)) == ({"production": 5}, {5})


async def test_a_version_for_one_adapter_is_not_added_to_another_of_its_name(registry: Registry, draft: Draft) -> None:
    await registry.add_version("acme", "support", draft(1))
    created = registry.snapshot.adapter("acme", "support").created
    version, _ = await registry.add_version("acme", "support", draft(2), if_created=created)
    assert version.number == 2
    await registry.delete_adapter("acme", "support")
    with pytest.raises(UnknownAdapter, match="it was deleted"):
        await registry.add_version("acme", "support", draft(3), if_created=created)
    assert registry.snapshot.find_adapter("acme", "support") is None
    await registry.add_version("acme", "support", draft(1))
    with pytest.raises(UnknownAdapter, match="it was deleted"):
        await registry.add_version("acme", "support", draft(3), if_created=created)
    assert list(registry.snapshot.adapter("acme", "support").versions) == [3]


async def test_a_quarantined_first_version_is_not_production(registry: Registry, draft: Draft) -> None:
    await registry.add_version("acme", "support", draft(1).model_copy(update={"quarantined": True}))
    assert registry.snapshot.adapter("acme", "support").aliases == {}


async def test_promotion_keeps_the_way_back(registry: Registry, draft: Draft) -> None:
    for seed in (1, 2):
        await registry.add_version("acme", "support", draft(seed))
    promoted = await registry.set_alias("acme", "support", "production", 2, if_current=1)
    assert promoted.aliases == {"production": 2, "previous": 1}
    same = await registry.set_alias("acme", "support", "production", 2)
    assert same.aliases == {"production": 2, "previous": 1}
    back = await registry.set_alias("acme", "support", "production", promoted.aliases["previous"])
    assert back.aliases == {"production": 1, "previous": 2}
    version, _ = await registry.add_version("acme", "support", draft(3), ["previous", "production"])
    assert registry.snapshot.adapter("acme", "support").aliases == {"production": 3, "previous": version.number}


async def test_compare_and_set(registry: Registry, draft: Draft) -> None:
    for seed in (1, 2):
        await registry.add_version("acme", "support", draft(seed))
    with pytest.raises(AliasMoved, match="'production' points to v1, expected v2"):
        await registry.set_alias("acme", "support", "production", 2, if_current=2)
    with pytest.raises(AliasMoved, match="expected it to be absent"):
        await registry.set_alias("acme", "support", "production", 2, if_current=None)
    with pytest.raises(AliasMoved, match="is absent, expected v1"):
        await registry.set_alias("acme", "support", "canary", 2, if_current=1)
    adapter = await registry.set_alias("acme", "support", "canary", 2, if_current=None)
    assert adapter.aliases == {"production": 1, "canary": 2}


async def test_of_many_racing_promotions_one_wins(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft
) -> None:
    other = await open_registry(redis.url)
    for seed in range(1, 22):
        await registry.add_version("acme", "support", draft(seed))
    racers = [
        (registry, other)[number % 2].set_alias("acme", "support", "production", number, if_current=1)
        for number in range(2, 22)
    ]
    results = await asyncio.gather(*racers, return_exceptions=True)
    winners = [result for result in results if not isinstance(result, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(result, AliasMoved) for result in results if isinstance(result, BaseException))
    stored = (await open_registry(redis.url)).snapshot.adapter("acme", "support")
    assert stored.aliases["production"] == results.index(winners[0]) + 2


async def test_a_version_in_use_stays(registry: Registry, draft: Draft) -> None:
    for seed in (1, 2):
        await registry.add_version("acme", "support", draft(seed))
    with pytest.raises(VersionInUse, match="alias production"):
        await registry.delete_version("acme", "support", 1)
    await registry.set_pinned("acme", "support", 2, True)
    assert await registry.collectable() == []
    with pytest.raises(VersionInUse, match="pinned"):
        await registry.delete_version("acme", "support", 2)
    unpinned = await registry.set_pinned("acme", "support", 2, False)
    assert not unpinned.versions[2].pinned
    assert [version.number for version in await registry.collectable("acme")] == [2]
    assert await registry.collectable("globex") == []
    await registry.delete_version("acme", "support", 2)
    assert registry.snapshot.digests() == {draft(1).digest}
    await registry.delete_alias("acme", "support", "production")
    emptied = await registry.delete_version("acme", "support", 1)
    assert (emptied.aliases, emptied.versions) == ({}, {})


async def test_what_does_not_exist_is_named_and_nothing_changes(registry: Registry, draft: Draft) -> None:
    await registry.add_version("acme", "support", draft(1))
    before = registry.snapshot.revision
    refused: list[tuple[type[PolyadError], Awaitable[Any]]] = [
        (UnknownAdapter, registry.set_alias("acme", "tone", "production", 1)),
        (UnknownAdapter, registry.set_alias("globex", "support", "production", 1)),
        (UnknownAdapter, registry.set_pinned("acme", "tone", 1, True)),
        (UnknownAdapter, registry.delete_alias("acme", "tone", "production")),
        (UnknownAdapter, registry.delete_version("acme", "tone", 1)),
        (UnknownAdapter, registry.delete_adapter("acme", "tone")),
        (UnknownVersion, registry.set_alias("acme", "support", "production", 2)),
        (UnknownVersion, registry.set_pinned("acme", "support", 2, True)),
        (UnknownVersion, registry.delete_version("acme", "support", 2)),
        (UnknownAlias, registry.delete_alias("acme", "support", "canary")),
        (InvalidName, registry.add_version("acme", "../etc", draft(1))),
        (InvalidName, registry.add_version("a/b", "support", draft(1))),
        (InvalidName, registry.add_version("acme", "support", draft(1), ["v7"])),
        (InvalidName, registry.set_alias("acme", "support", "abcdefabcdef", 1)),
    ]
    for error, call in refused:
        with pytest.raises(error):
            await call
    assert registry.snapshot.revision == before


async def test_subscribers_hear_each_change_once(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, eventually: Any
) -> None:
    other = await open_registry(redis.url)
    heard: dict[Registry, list[Event]] = {registry: [], other: []}
    for one, events in heard.items():
        one.subscribe(events.append)
        one.subscribe(_fail)
    await asyncio.gather(*((registry, other)[n % 2].add_version("acme", f"a{n}", draft(n)) for n in range(40)))
    await eventually(lambda: registry.snapshot.revision == other.snapshot.revision == 40)
    for events in heard.values():
        assert [event.revision for event in events] == list(range(1, 41))
        assert all(isinstance(event, Change) and event.kind == "version_added" for event in events)


def _fail(event: Event) -> None:
    raise ZeroDivisionError


async def test_a_newer_schema_is_refused(redis: EmbeddedRedis, registry: Registry) -> None:
    async with Redis.from_url(redis.url) as client:
        await client.hset("{polyad}:meta", "schema", "4")
    with pytest.raises(ConfigError, match="schema 4"):
        await Registry(redis.url).start()


async def test_start_without_redis_and_with_a_bad_namespace() -> None:
    with pytest.raises(RegistryUnavailable):
        await Registry("redis://:hunter2@127.0.0.1:1").start()
    with pytest.raises(ConfigError, match="namespace"):
        Registry("redis://127.0.0.1:1", namespace="{x}")


async def test_random_operations_agree_with_a_plain_model(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Draft, eventually: Any
) -> None:
    writers = (registry, await open_registry(redis.url))
    chance = random.Random(7)
    model: dict[str, dict[str, Any]] = {}
    counters: dict[str, int] = {}
    for _ in range(250):
        name, seed = chance.choice("abc"), chance.randrange(1, 6)
        call, expected = _step(model, counters, name, seed, chance.choice(_OPERATIONS))
        try:
            await call(chance.choice(writers), draft(seed))
            outcome = None
        except PolyadError as error:
            outcome = type(error)
        assert outcome is expected
    fresh = await open_registry(redis.url)
    await eventually(lambda: len({one.snapshot.revision for one in (*writers, fresh)}) == 1)
    for one in (*writers, fresh):
        assert one.snapshot.revision > 50
        assert _state(one) == model


_OPERATIONS = ("add", "add", "add", "promote", "alias", "unalias", "pin", "unpin", "drop", "drop", "delete")


def _state(registry: Registry) -> dict[str, dict[str, Any]]:
    return {
        adapter.name: {
            "aliases": adapter.aliases,
            "versions": {number: version.size - 1 for number, version in adapter.versions.items()},
            "pins": {number for number, version in adapter.versions.items() if version.pinned},
        }
        for adapter in registry.snapshot.page("acme", None, 100)
    }


def _step(model: dict[str, Any], counters: dict[str, int], name: str, seed: int, operation: str) -> tuple[Any, Any]:
    adapter = model.get(name)
    if operation == "add":
        _add(model, counters, name, seed)
        return lambda r, d: r.add_version("acme", name, d), None
    calls: dict[str, Any] = {
        "promote": lambda r, d: r.set_alias("acme", name, "production", seed),
        "alias": lambda r, d: r.set_alias("acme", name, "canary", seed),
        "unalias": lambda r, d: r.delete_alias("acme", name, "canary"),
        "pin": lambda r, d: r.set_pinned("acme", name, seed, True),
        "unpin": lambda r, d: r.set_pinned("acme", name, seed, False),
        "drop": lambda r, d: r.delete_version("acme", name, seed),
        "delete": lambda r, d: r.delete_adapter("acme", name),
    }
    return calls[operation], UnknownAdapter if adapter is None else _change(model, name, seed, operation)


def _add(model: dict[str, Any], counters: dict[str, int], name: str, seed: int) -> None:
    adapter = model.get(name)
    if adapter and seed in adapter["versions"].values():
        return
    number = counters[name] = counters.get(name, 0) + 1
    if adapter is None:
        adapter = model[name] = {"aliases": {"production": number}, "versions": {}, "pins": set()}
    adapter["versions"][number] = seed


def _promote(aliases: dict[str, int], number: int) -> None:
    if aliases.get("production") not in (None, number):
        aliases["previous"] = aliases["production"]
    aliases["production"] = number


def _change(model: dict[str, Any], name: str, number: int, operation: str) -> type[PolyadError] | None:
    aliases, versions, pins = model[name]["aliases"], model[name]["versions"], model[name]["pins"]
    if operation == "delete":
        del model[name]
        return None
    if operation == "unalias":
        return None if aliases.pop("canary", None) else UnknownAlias
    if number not in versions:
        return UnknownVersion
    if operation == "promote":
        _promote(aliases, number)
    elif operation == "alias":
        aliases["canary"] = number
    elif operation == "pin":
        pins.add(number)
    elif operation == "unpin":
        pins.discard(number)
    elif operation == "drop":
        if number in pins or number in aliases.values():
            return VersionInUse
        del versions[number]
    return None
