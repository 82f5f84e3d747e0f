"""Collection on a real registry and real files."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import pytest
from redis.asyncio import Redis

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import Conflict, RegistryUnavailable, VersionInUse
from polyad.adapters_store.registry import EmbeddedRedis, Registry, Version, VersionDraft
from polyad.serve.service import Collector, check_sole_owner

TENANT = "public"
AFTER_S = 60.0

Push = Callable[..., Awaitable[Version]]


class Leased:
    """The engine's host cache, as far as collection asks it."""

    def __init__(self) -> None:
        self.versions: list[Version] = []

    def leased(self, version: Version) -> bool:
        return version in self.versions


@pytest.fixture
def leases() -> Leased:
    return Leased()


@pytest.fixture
def collector(registry: Registry, blobs: BlobStore, leases: Leased) -> Collector:
    return Collector(registry, blobs, leases, AFTER_S, TENANT)


@pytest.fixture
def store(blobs: BlobStore, tmp_path: Path) -> Callable[..., Awaitable[str]]:
    """Put bytes into the blob store, `age` seconds ago; the digest."""

    async def stored(content: str, age: float) -> str:
        digest = sha256(content.encode()).hexdigest()
        # what was put may be the blob itself
        (tmp_path / digest).unlink(missing_ok=True)
        (tmp_path / digest).write_text(content)
        await blobs.put(tmp_path / digest, digest)
        path = await blobs.fetch(digest)
        os.utime(path, (time.time() - age,) * 2)
        return digest

    return stored


@pytest.fixture
def push(registry: Registry, store: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch) -> Push:
    """Register a version, `age` seconds ago; the first of an adapter gets `production`."""
    now = time.time

    async def pushed(adapter: str, content: str, age: float = 2 * AFTER_S, tenant: str = TENANT) -> Version:
        digest = await store(content, age)
        draft = VersionDraft(digest=digest, size=9, base="base", rank=4, targets=("q_proj",), source="upload")
        with monkeypatch.context() as past:
            past.setattr("polyad.adapters_store.registry.registry.time.time", lambda: now() - age)
            return (await registry.add_version(tenant, adapter, draft))[0]

    return pushed


async def stored(blobs: BlobStore) -> set[str]:
    return {blob.digest for blob in await blobs.digests()}


async def test_only_what_nothing_needs_is_removed(
    collector: Collector, registry: Registry, blobs: BlobStore, push: Push, leases: Leased
) -> None:
    production = await push("a", "production")
    canary = await push("a", "canary")
    await registry.set_alias(TENANT, "a", "canary", canary.number)
    pinned = await push("a", "pinned")
    await registry.set_pinned(TENANT, "a", pinned.number, True)
    running = await push("a", "running")
    leases.versions.append(running)
    young = await push("a", "young", age=1)
    free = await push("a", "free")
    collected = await collector.collect(dry_run=False)
    assert [version.label for version in collected.versions] == [free.label]
    assert collected.blobs == [free.digest]
    kept = [production, canary, pinned, running, young]
    assert set(registry.snapshot.adapter(TENANT, "a").versions) == {version.number for version in kept}
    assert await stored(blobs) == {version.digest for version in kept}


async def test_second_collection_takes_what_has_become_free(collector: Collector, push: Push, leases: Leased) -> None:
    await push("a", "production")
    running = await push("a", "running")
    leases.versions.append(running)
    assert (await collector.collect(dry_run=False)).versions == []
    leases.versions.clear()
    assert [version.number for version in (await collector.collect(dry_run=False)).versions] == [running.number]
    again = await collector.collect(dry_run=False)
    assert (again.versions, again.blobs) == ([], [])


async def test_dry_run_changes_nothing(
    collector: Collector, registry: Registry, blobs: BlobStore, push: Push, store: Callable[..., Awaitable[str]]
) -> None:
    await push("a", "production")
    free = await push("a", "free")
    orphan = await store("orphan", 2 * AFTER_S)
    before = await stored(blobs)
    collected = await collector.collect(dry_run=True)
    assert collected.versions == [free]
    assert orphan in collected.blobs
    assert await stored(blobs) == before
    assert free.number in registry.snapshot.adapter(TENANT, "a").versions


async def test_bytes_without_version_go_once_they_are_old(
    collector: Collector, blobs: BlobStore, push: Push, store: Callable[..., Awaitable[str]]
) -> None:
    kept = await push("a", "kept")
    old, young = await store("old", 2 * AFTER_S), await store("young", 0)
    assert (await collector.collect(dry_run=False)).blobs == [old]
    assert await stored(blobs) == {kept.digest, young}


async def test_bytes_that_another_adapter_or_tenant_needs_stay(
    collector: Collector, registry: Registry, blobs: BlobStore, push: Push
) -> None:
    shared = await push("a", "shared by adapters")
    await push("b", "shared by adapters")
    theirs = await push("c", "shared by tenants")
    await push("c", "shared by tenants", tenant="them")
    free = await push("d", "their own", tenant="them")
    spare = await push("d", "their spare one", tenant="them")
    for adapter in ("a", "c"):
        await registry.delete_adapter(TENANT, adapter)
    collected = await collector.collect(dry_run=False)
    assert (collected.versions, collected.blobs) == ([], [])
    assert await stored(blobs) == {shared.digest, theirs.digest, free.digest, spare.digest}


async def test_deleted_adapter_leaves_bytes_that_are_collected(
    collector: Collector, registry: Registry, blobs: BlobStore, push: Push
) -> None:
    version = await push("a", "gone")
    await registry.delete_adapter(TENANT, "a")
    assert await stored(blobs) == {version.digest}
    assert (await collector.collect(dry_run=False)).blobs == [version.digest]
    assert await stored(blobs) == set()


async def test_version_that_gets_its_alias_meanwhile_is_left_alone(
    collector: Collector, registry: Registry, blobs: BlobStore, push: Push, monkeypatch: pytest.MonkeyPatch
) -> None:
    await push("a", "production")
    free = await push("a", "free")
    delete = registry.delete_version

    async def promoted_first(tenant: str, name: str, number: int) -> object:
        await registry.set_alias(tenant, name, "canary", number)
        with pytest.raises(VersionInUse):
            await delete(tenant, name, number)
        return await delete(tenant, name, number)

    monkeypatch.setattr(registry, "delete_version", promoted_first)
    collected = await collector.collect(dry_run=False)
    assert (collected.versions, collected.blobs) == ([], [])
    assert free.digest in await stored(blobs)


@pytest.mark.parametrize("with_versions", [True, False])
async def test_without_redis_nothing_is_removed_and_nothing_is_claimed(
    collector: Collector,
    redis: EmbeddedRedis,
    registry: Registry,
    blobs: BlobStore,
    push: Push,
    store: Callable[..., Awaitable[str]],
    with_versions: bool,
) -> None:
    await push("a", "production")
    if with_versions:
        await push("a", "free")
    await store("orphan", 2 * AFTER_S)
    before = await stored(blobs)
    await redis.stop()
    deadline = time.monotonic() + 60
    while registry.live:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    for dry_run in (False, True):
        # what merges came to only Redis knows
        with pytest.raises(RegistryUnavailable):
            await collector.collect(dry_run=dry_run)
    assert await stored(blobs) == before


async def test_who_does_not_run_the_server_collects_versions_alone(
    collector: Collector, registry: Registry, blobs: BlobStore, push: Push, store: Callable[..., Awaitable[str]]
) -> None:
    await push("a", "production")
    free = await push("a", "free")
    await store("orphan", 2 * AFTER_S)
    before = await stored(blobs)
    for dry_run in (True, False):
        collected = await collector.collect(dry_run, with_bytes=False)
        assert (collected.versions, collected.blobs) == ([free], [])
    assert await stored(blobs) == before
    assert list(registry.snapshot.adapter(TENANT, "a").versions) == [1]


@pytest.mark.parametrize("registers", [True, False])
async def test_bytes_that_are_put_again_meanwhile_stay(
    collector: Collector,
    blobs: BlobStore,
    push: Push,
    store: Callable[..., Awaitable[str]],
    monkeypatch: pytest.MonkeyPatch,
    registers: bool,
) -> None:
    orphan, other = await store("orphan", 2 * AFTER_S), await store("other", 2 * AFTER_S)
    claim = blobs.claim

    async def put_again_first(origin: str) -> set[str]:
        # what is needed was looked at before
        if registers:
            await push("a", "orphan")
        else:
            await store("orphan", 0)
        return await claim(origin)

    monkeypatch.setattr(blobs, "claim", put_again_first)
    assert (await collector.collect(dry_run=False)).blobs == [other]
    assert await stored(blobs) == {orphan}


async def test_after_redis_lost_the_registry_its_bytes_stay(
    collector: Collector, redis: EmbeddedRedis, registry: Registry, blobs: BlobStore, push: Push, tmp_path: Path
) -> None:
    kept = await push("a", "kept")
    origin = registry.snapshot.origin
    assert (await collector.collect(dry_run=False)).blobs == []
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
    async with asyncio.timeout(60):
        while not registry.live or registry.snapshot.origin == origin:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for dry_run in (True, False):
        with pytest.raises(Conflict, match=rf"born {origin}.*remove its mark, the file registries/{origin}"):
            await collector.collect(dry_run)
    assert await stored(blobs) == {kept.digest}
    (tmp_path / "blobs" / "registries" / origin).unlink()
    assert (await collector.collect(dry_run=False)).blobs == [kept.digest]


async def test_two_namespaces_that_share_a_root_spare_each_others_bytes(
    redis: EmbeddedRedis,
    registry: Registry,
    collector: Collector,
    blobs: BlobStore,
    store: Callable[..., Awaitable[str]],
) -> None:
    orphan = await store("somebody's", 2 * AFTER_S)
    other = Registry(redis.url, "other")
    await other.start()
    await check_sole_owner(registry, blobs)
    with pytest.raises(Conflict, match=registry.snapshot.origin):
        # as its server does at its start
        await check_sole_owner(other, blobs)
    for one in (collector, Collector(other, blobs, Leased(), AFTER_S, TENANT)):
        with pytest.raises(Conflict, match="belongs to another registry"):
            await one.collect(dry_run=False)
    assert await stored(blobs) == {orphan}
    await other.close()
