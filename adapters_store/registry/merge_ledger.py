"""Which merges were computed, and who computes one now: for all servers on one Redis.

An entry is set only when the bytes are in the blob store. A lease is a key that expires: whoever computes renews it,
and a server that died leaves nothing behind but what expires. A failure is kept for a while, so that it is not tried
in a loop.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.registry.records import MergeEntry
from polyad.adapters_store.registry.store import REDIS_ERRORS, Store

T = TypeVar("T")

_RENEW = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
return 1
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1], KEYS[2]) end
"""


class MergeLedger:
    """Every method raises RegistryUnavailable if Redis does not answer in time."""

    def __init__(self, store: Store, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._entries = store.key("merges")
        self._uses = store.key("merge-uses")

    async def find(self, tenant: str, recipe: str) -> MergeEntry | None:
        """The entry, which counts as used now."""
        field = _field(tenant, recipe)
        found = await self._answer(self._store.client.hget(self._entries, field))
        if found is None:
            return None
        await self._answer(self._store.client.zadd(self._uses, {field: time.time()}))
        return MergeEntry.model_validate_json(found)

    async def entries(self) -> list[MergeEntry]:
        """Every entry of every tenant, least recently used first."""
        found = await self._answer(self._store.client.hgetall(self._entries))
        order = await self._answer(self._store.client.zrange(self._uses, 0, -1))
        places = {field: place for place, field in enumerate(order)}
        fields = sorted(found, key=lambda field: places.get(field, -1))
        return [MergeEntry.model_validate_json(found[field]) for field in fields]

    async def add(self, entry: MergeEntry) -> None:
        """Make a result known; its bytes must be in the blob store already."""
        field = _field(entry.tenant, entry.id)
        await self._answer(self._store.client.zadd(self._uses, {field: time.time()}))
        await self._answer(self._store.client.hset(self._entries, field, entry.model_dump_json()))

    async def remove(self, entry: MergeEntry) -> None:
        """Forget a result; its bytes may be deleted after."""
        field = _field(entry.tenant, entry.id)
        await self._answer(self._store.client.hdel(self._entries, field))
        await self._answer(self._store.client.zrem(self._uses, field))

    async def acquire(self, tenant: str, recipe: str, token: str, seconds: float) -> bool:
        """Whether the caller, by its token, is the one who computes the merge for so long."""
        key = self._lease(tenant, recipe)
        return bool(await self._answer(self._store.client.set(key, token, nx=True, px=_milliseconds(seconds))))

    async def renew(self, tenant: str, recipe: str, token: str, seconds: float, progress: str) -> bool:
        """Hold the lease for so long from now, and say how far the merge is; False if it was lost."""
        keys = [self._lease(tenant, recipe), self._progress(tenant, recipe)]
        arguments = [token, str(_milliseconds(seconds)), progress]
        return bool(await self._answer(self._store.client.eval(_RENEW, 2, *keys, *arguments)))

    async def release(self, tenant: str, recipe: str, token: str) -> None:
        """Give the lease back, if the caller still has it."""
        keys = [self._lease(tenant, recipe), self._progress(tenant, recipe)]
        await self._answer(self._store.client.eval(_RELEASE, 2, *keys, token))

    async def progress(self, tenant: str, recipe: str) -> str | None:
        """What the one who computes the merge said last; empty if nothing yet, None if nobody computes it."""
        if await self._answer(self._store.client.get(self._lease(tenant, recipe))) is None:
            return None
        said = await self._answer(self._store.client.get(self._progress(tenant, recipe)))
        return "" if said is None else str(said)

    async def fail(self, tenant: str, recipe: str, reason: str, seconds: float) -> None:
        """Keep the reason for so long."""
        await self._answer(self._store.client.set(self._failure(tenant, recipe), reason, px=_milliseconds(seconds)))

    async def failure(self, tenant: str, recipe: str) -> str | None:
        """Why the merge failed a short while ago, if it did."""
        found = await self._answer(self._store.client.get(self._failure(tenant, recipe)))
        return None if found is None else str(found)

    def _lease(self, tenant: str, recipe: str) -> str:
        return self._store.key(f"merge-lease:{_field(tenant, recipe)}")

    def _progress(self, tenant: str, recipe: str) -> str:
        return self._store.key(f"merge-progress:{_field(tenant, recipe)}")

    def _failure(self, tenant: str, recipe: str) -> str:
        return self._store.key(f"merge-failure:{_field(tenant, recipe)}")

    async def _answer(self, call: Awaitable[Any] | Any) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call
        except REDIS_ERRORS as error:
            address = self._store.address
            raise RegistryUnavailable(f"registry: no answer from {address} ({type(error).__name__})") from error


def _field(tenant: str, recipe: str) -> str:
    return f"{tenant}/{recipe}"


def _milliseconds(seconds: float) -> int:
    return max(int(seconds * 1000), 1)
