"""The results of merges: computed, stored, and bounded."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import Conflict
from polyad.adapters_store.registry import MergedVersion, MergeEntry, Registry
from polyad.serve.compose import MergeDraft, Merges
from polyad.serve.service.leases import Leases
from polyad.serve.service.merge_job import Job
from polyad.serve.service.merge_process import MergeProcess
from polyad.serve.service.scratch_folder import scratch_folder
from polyad.serve.service.stored_bytes import check_sole_owner, needed_digests, remove_unneeded

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class MergeResults:
    """`cache_bytes` bounds the bytes of all results of all tenants, without what was computed in the last `grace_s`
    seconds; `known` is what the resolver looks results up in.

    The bytes of an evicted result go with it, so that the bound holds without collection. They are left to collection
    if somebody refreshed them in the last `grace_s` seconds, and for good in a blob root of several registries.
    """

    registry: Registry
    blobs: BlobStore
    known: Merges
    process: MergeProcess
    leases: Leases
    scratch: Path
    cache_bytes: int
    grace_s: float = 60.0

    async def run(self, draft: MergeDraft, job: Job) -> MergeEntry:
        """Compute a merge, store its bytes and make it known, in this order. Raises MergeFailed."""
        job.status = "running"

        def progress(done: int, of: int) -> None:
            job.done, job.of = done, of

        began = time.monotonic()
        async with scratch_folder(self.scratch) as folder:
            out = folder / "delta.safetensors"
            async with self._sources(draft) as sources:
                said = await self.process.run(draft.recipe, sources, out, progress)
            await self.blobs.put(out, said["digest"])
        entry = _entry(draft, said)
        await self.registry.merges.add(entry)
        logger.info("merged %s in %.1f s: %d bytes", draft.text, time.monotonic() - began, entry.size)
        await self.evict(entry)
        return entry

    @asynccontextmanager
    async def _sources(self, draft: MergeDraft) -> AsyncIterator[dict[str, Path]]:
        async with AsyncExitStack() as stack:
            yield {digest: await stack.enter_async_context(self.blobs.lease(digest)) for digest in draft.recipe.sources}

    async def evict(self, newest: MergeEntry) -> None:
        """Remove the results used least recently until the others fit; none that a version or a request needs."""
        entries = await self.registry.merges.entries()
        size = sum(entry.size for entry in entries)
        before = time.time() - self.grace_s
        for entry in entries:
            if size <= self.cache_bytes:
                return
            if entry.id == newest.id or entry.created > before or self.leases.leased(_version(entry)):
                continue
            await self.registry.merges.remove(entry)
            self.known.forget(entry.tenant, entry.id)
            size -= entry.size
            await self._remove_bytes(entry)

    async def _remove_bytes(self, entry: MergeEntry) -> None:
        with suppress(Conflict):
            await check_sole_owner(self.registry, self.blobs)
            # Whoever found the entry to save it, on any server, refreshes its bytes before it registers them.
            await remove_unneeded(self.blobs, [entry.digest], partial(needed_digests, self.registry), self.grace_s)


def _entry(draft: MergeDraft, said: dict[str, Any]) -> MergeEntry:
    report = {key: value for key, value in said["report"].items() if key != "by_module"}
    return MergeEntry(
        tenant=draft.tenant,
        id=draft.id,
        text=draft.text,
        recipe=draft.recipe.to_json(),
        digest=said["digest"],
        size=said["size"],
        base=draft.base,
        rank=said["rank"],
        targets=tuple(said["targets"]),
        created=round(time.time(), 3),
        report=report,
    )


def _version(entry: MergeEntry) -> MergedVersion:
    given = {name: getattr(entry, name) for name in ("tenant", "digest", "size", "base", "rank", "targets", "created")}
    return MergedVersion(**given, adapter=entry.text, source="merge", recipe=entry.recipe)
