"""From keys to callers; and the addresses that a server may listen on."""

import asyncio
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from redis.asyncio import Redis

from polyad.adapters_store.errors import ConfigError, Forbidden, Unauthenticated
from polyad.adapters_store.registry import EmbeddedRedis, Key, Registry, Snapshot
from polyad.serve.config import Settings
from polyad.serve.service import Access, Caller, Role

OTHERS = ["0.0.0.0", "::", "192.168.1.7", "example.org", "127.0.0.1.example.org", ""]


def key(text: str, tenant: str = "acme", role: str = "user") -> Key:
    return Key.model_validate(
        {
            "tenant": tenant,
            "name": text.rpartition("_")[2],
            "role": role,
            "label": "",
            "digest": sha256(text.encode()).hexdigest(),
            "created": 0,
            "revision": 1,
        }
    )


@pytest.fixture
def access() -> Callable[..., Access]:
    def made(*keys: Key, **settings: Any) -> Access:
        return Access(Settings.load(**settings), Snapshot.build("b", 1, [], [], keys=keys))

    return made


def bearer(text: str) -> bytes:
    return f"Bearer {text}".encode()


@pytest.mark.parametrize("role", ["user", "publisher", "admin"])
def test_a_key_acts_for_its_tenant_in_its_role(access: Callable[..., Access], role: str) -> None:
    known = access(key("polyad_a"), key("polyad_b", "other", role))
    assert known.caller(bearer("polyad_b")) == Caller("other", Role[role.upper()])
    for wrong in (b"", bearer("polyad_"), bearer("polyad_B"), bearer("polyad_bb"), b"Basic polyad_b"):
        with pytest.raises(Unauthenticated):
            known.caller(wrong)


def test_keys_of_the_settings_are_of_the_public_tenant(access: Callable[..., Access]) -> None:
    known = access(key("polyad_a"), api_key="u", admin_key="a")
    assert known.caller(bearer("u")) == Caller("public", Role.USER)
    assert known.caller(bearer("a")) == Caller("public", Role.ADMIN)
    assert known.caller(bearer("polyad_a")) == Caller("acme", Role.USER)


def test_the_metrics_key_reads_metrics_and_is_nobody_else(access: Callable[..., Access]) -> None:
    known = access(api_key="u", admin_key="a", metrics_key="m")
    assert known.reader_of_metrics(bearer("m")) == Caller("public", Role.USER)
    assert known.reader_of_metrics(bearer("a")).operator
    for wrong, error in ((bearer("u"), Forbidden), (b"", Unauthenticated), (b"Basic m", Unauthenticated)):
        with pytest.raises(error):
            known.reader_of_metrics(wrong)
    with pytest.raises(Unauthenticated):
        known.caller(bearer("m"))
    assert access(metrics_key="m").reader_of_metrics(b"").operator, "without other keys loopback stays open"


def test_the_first_key_ends_the_time_without_keys(access: Callable[..., Access]) -> None:
    assert access().caller(b"") == Caller("public", Role.ADMIN)
    assert access(admin_key="a").caller(b"") == Caller("public", Role.USER)
    for known in (access(key("polyad_a")), access(key("polyad_a"), admin_key="a"), access(host="0.0.0.0")):
        with pytest.raises(Unauthenticated):
            known.caller(b"")


def test_a_revoked_key_is_refused_even_where_nobody_needs_one(access: Callable[..., Access]) -> None:
    with pytest.raises(Unauthenticated):
        access().caller(bearer("polyad_0f3a9c11d2e4_gone"))
    assert access().caller(bearer("none")).operator


@pytest.mark.parametrize("settings", [{}, {"admin_key": "a"}])
@pytest.mark.parametrize("made", ["before its start", "by it", "by another"])
async def test_keys_that_redis_lost_open_nothing(
    redis: EmbeddedRedis, registry: Registry, made: str, settings: dict[str, Any]
) -> None:
    if made == "before its start":
        await _add_key(registry)
    server = Registry(redis.url)
    await server.start()
    known = Access(Settings.load(**settings), server.snapshot)
    if made != "before its start":
        assert known.caller(b"").role == (Role.USER if settings else Role.ADMIN)
        await _add_key(server if made == "by it" else registry)
    await _until(lambda: len(server.snapshot.keys) == 1)
    async with Redis.from_url(redis.url) as client:
        await client.flushall()
    await _until(lambda: server.live and not server.snapshot.keys)
    for wrong in (b"", bearer("polyad_a"), bearer("none")):
        with pytest.raises(Unauthenticated):
            known.caller(wrong)
    assert not known.open
    await server.close()
    started_again = Registry(redis.url)
    await started_again.start()
    assert Access(Settings.load(), started_again.snapshot).open
    await started_again.close()


async def _add_key(registry: Registry) -> None:
    await registry.add_key("public", "a", "admin", sha256(b"polyad_a").hexdigest())


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_keys(access: Callable[..., Access], host: str) -> None:
    access(host=host).check_address(host)


@pytest.mark.parametrize("host", OTHERS)
def test_other_addresses_need_keys(access: Callable[..., Access], host: str) -> None:
    for keys in ({}, {"api_key": "a"}, {"admin_key": "b"}):
        with pytest.raises(ConfigError, match="is reachable by others"):
            access(host=host, **keys).check_address(host)
    for stored in (key("polyad_a", "acme", "admin"), key("polyad_a", "public", "publisher")):
        with pytest.raises(ConfigError, match="is reachable by others"):
            access(stored, host=host).check_address(host)
    access(host=host, api_key="a", admin_key="b").check_address(host)
    access(key("polyad_a", "public", "admin"), host=host).check_address(host)


@pytest.mark.parametrize(
    ("caller", "tenants"),
    [
        (Caller("public", Role.ADMIN), {"public", "acme"}),
        (Caller("public", Role.PUBLISHER), {"acme"}),
        (Caller("acme", Role.ADMIN), {"acme"}),
        (Caller("acme", Role.PUBLISHER), {"acme"}),
        (Caller("acme", Role.USER), set()),
    ],
)
def test_who_writes_what(caller: Caller, tenants: set[str]) -> None:
    """`acme` stands for a tenant of the caller's own."""
    for tenant in ("public", "acme"):
        if tenant in tenants:
            caller.check_writes(tenant)
        else:
            with pytest.raises(Forbidden):
                caller.check_writes(tenant)
