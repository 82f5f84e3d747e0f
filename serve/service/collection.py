"""Collecting what nobody needs: versions without alias, pin or request, and bytes without version."""

import copy
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import NotFound, VersionInUse
from polyad.adapters_store.registry import Registry, Version
from polyad.serve.service.leases import Leases
from polyad.serve.service.stored_bytes import check_sole_owner, needed_digests, remove_unneeded


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed, or would be."""

    versions: list[Version]
    blobs: list[str]


class Collector:
    """Removes versions of one tenant and the bytes that no version of any tenant refers to any more.

    What merges came to is not its business: they have a bound of their own. Bytes stay while the blob root belongs to
    another registry too, as after Redis lost this one's data: see `check_sole_owner`, also for how to take it over.

    Both must be older than `after_s` seconds: a version may be about to get its alias, and bytes are written before
    their version is registered. `learning` tells which bytes open runs need, which may take longer than that.
    """

    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        leases: Leases,
        after_s: float,
        tenant: str,
        learning: Callable[[], Awaitable[set[str]]] | None = None,
    ) -> None:
        self._registry = registry
        self._blobs = blobs
        self._leases = leases
        self._after_s = after_s
        self._tenant = tenant
        self._learning = learning

    def of(self, tenant: str) -> "Collector":
        """The same for another tenant's versions."""
        other = copy.copy(self)
        other._tenant = tenant
        return other

    async def collect(self, dry_run: bool, with_bytes: bool = True) -> Collected:
        """Bytes are of all tenants, so `with_bytes` is for who runs the server.

        Raises RegistryUnavailable, BlobsUnavailable, Conflict for a blob root that is another registry's too; versions
        may have been removed by then. Safe to repeat after any.
        """
        before = time.time() - self._after_s
        versions = [v for v in await self._registry.collectable(self._tenant) if self._free(v, before)]
        if not dry_run:
            versions = [version for version in versions if await self._delete(version)]
        blobs = await self._unneeded() if with_bytes else []
        if not dry_run:
            blobs = await remove_unneeded(self._blobs, blobs, self._needed, self._after_s)
        return Collected(versions, blobs)

    async def _unneeded(self) -> list[str]:
        stored = await self._blobs.digests()
        needed = await self._needed()
        # Last: what was found is of no use if the registry is another one by now.
        await check_sole_owner(self._registry, self._blobs)
        return [blob.digest for blob in stored if blob.digest not in needed and blob.age_seconds > self._after_s]

    async def _needed(self) -> set[str]:
        # Before the snapshot is looked at: what a run registers in between is there then.
        learning = set() if self._learning is None else await self._learning()
        return learning | await needed_digests(self._registry)

    def _free(self, version: Version, before: float) -> bool:
        return version.created < before and not self._leases.leased(version)

    async def _delete(self, version: Version) -> bool:
        try:
            await self._registry.delete_version(version.tenant, version.adapter, version.number)
        except (VersionInUse, NotFound):
            return False  # somebody needed it, or removed it, since the snapshot was looked at
        return True
