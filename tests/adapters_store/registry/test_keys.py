"""Keys and limits: on every server at once, and kept over a restart."""

from collections.abc import Callable
from hashlib import sha256

import pytest

from polyad.adapters_store.errors import Conflict, InvalidName, UnknownKey
from polyad.adapters_store.registry import EmbeddedRedis, Limits, Registry, VersionDraft
from tests.adapters_store.registry.conftest import Eventually, Open

DIGEST = sha256(b"the key").hexdigest()


async def test_a_key_is_known_and_forgotten_on_every_server(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, eventually: Eventually
) -> None:
    other = await open_registry(redis.url)
    key = await registry.add_key("acme", "k1", "publisher", DIGEST, "of the build")
    found = registry.snapshot.keys.with_digest(DIGEST)
    assert found is not None
    assert (found.tenant, found.name, found.role, found.label) == ("acme", "k1", "publisher", "of the build")
    await eventually(lambda: other.snapshot.keys.with_digest(DIGEST))
    assert (await open_registry(redis.url)).snapshot.keys.with_digest(DIGEST) == found
    assert found.model_copy(update={"revision": 0}) == key
    await other.delete_key("acme", "k1")
    assert other.snapshot.keys.with_digest(DIGEST) is None
    await eventually(lambda: registry.snapshot.keys.with_digest(DIGEST) is None)
    assert len((await open_registry(redis.url)).snapshot.keys) == 0


async def test_what_no_key_may_be(registry: Registry) -> None:
    await registry.add_key("acme", "k1", "user", DIGEST)
    with pytest.raises(Conflict, match="exists"):
        await registry.add_key("acme", "k1", "admin", sha256(b"another").hexdigest())
    with pytest.raises(UnknownKey):
        await registry.delete_key("other", "k1")
    with pytest.raises(InvalidName, match="tenant"):
        await registry.add_key("../acme", "k2", "user", DIGEST)
    assert [key.role for key in registry.snapshot.keys.page("acme", None, 10)] == ["user"]


async def test_limits_replace_each_other(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, eventually: Eventually
) -> None:
    other = await open_registry(redis.url)
    assert other.snapshot.limits("acme") == Limits()
    for limits in (Limits(weight=0.5, max_adapters=3, max_bytes=10**14), Limits(requests_per_minute=60)):
        await registry.set_limits("acme", limits)
        for one in (registry, other, await open_registry(redis.url)):
            await eventually(lambda one=one, limits=limits: _same(one, limits))
    assert other.snapshot.limits("else") == Limits()


async def test_usage_follows_versions(registry: Registry, draft: Callable[[int], VersionDraft]) -> None:
    for seed in (1, 2, 3):
        await registry.add_version("acme", "support" if seed < 3 else "tone", draft(seed))
    await registry.add_version("other", "support", draft(9))
    sizes = [draft(seed).size for seed in (1, 2, 3)]
    assert registry.snapshot.usage("acme") == (2, sum(sizes))
    await registry.delete_version("acme", "support", 2)
    assert registry.snapshot.usage("acme") == (2, sizes[0] + sizes[2])
    await registry.delete_adapter("acme", "support")
    assert registry.snapshot.usage("acme") == (1, sizes[2])
    assert registry.snapshot.usage("other") == (1, draft(9).size)


async def test_usage_is_the_same_when_read_anew(
    redis: EmbeddedRedis, open_registry: Open, registry: Registry, draft: Callable[[int], VersionDraft]
) -> None:
    for seed in range(1, 6):
        await registry.add_version("acme", f"a{seed % 2}", draft(seed))
    await registry.delete_version("acme", "a0", 2)
    assert (await open_registry(redis.url)).snapshot.usage("acme") == registry.snapshot.usage("acme")


def _same(registry: Registry, limits: Limits) -> bool:
    return Limits(**registry.snapshot.limits("acme").model_dump()) == limits
