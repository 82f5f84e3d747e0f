"""From a candidate to the version that answers, or to one that is kept for looking at."""

import time
from contextlib import suppress

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.delta import read_delta
from polyad.adapters_store.errors import AliasMoved, NotFound
from polyad.adapters_store.feedback import FeedbackStore, Policy, Run, Runs, Score
from polyad.adapters_store.names import PRODUCTION
from polyad.adapters_store.registry import Registry, Version, VersionDraft
from polyad.serve.learn.gate.statistics import fisher

CANARY = "canary"

_WORSE_P = 0.1


class Publication:
    """Every step may be taken again after a kill: a version is its bytes, and an alias moves only from the parent."""

    def __init__(self, registry: Registry, blobs: BlobStore, store: FeedbackStore, runs: Runs, base: str) -> None:
        self._registry = registry
        self._blobs = blobs
        self._store = store
        self._runs = runs
        self.base = base

    async def register(self, run: Run, quarantined: bool) -> Version:
        """The candidate as a version; a quarantined one is never served.

        Raises UnknownAdapter if the adapter that the run began with was deleted.
        """
        # Runs that an older release began do not know.
        created = run.adapter_created or self._registry.snapshot.adapter(run.tenant, run.adapter).created
        digest = run.candidate or ""
        path = await self._blobs.fetch(digest)
        delta = read_delta(path)
        draft = VersionDraft(
            digest=digest,
            size=path.stat().st_size,
            base=self.base,
            rank=max(change.low_rank.rank for change in delta.modules.values() if change.low_rank is not None),
            targets=tuple({module.rpartition(".")[2] for module in delta.modules}),
            source=f"run {run.id}",
            run=run.id,
            data=run.dataset.get("digest"),
            parents=() if run.parent_digest is None else (run.parent_digest,),
            quarantined=quarantined,
        )
        version, _ = await self._registry.add_version(run.tenant, run.adapter, draft, if_created=created)
        return version

    async def promote(self, run: Run) -> bool:
        """Move `production` from the parent to the run's version; False if it is neither any more."""
        adapter = self._registry.snapshot.adapter(run.tenant, run.adapter)
        if adapter.aliases.get(PRODUCTION) == run.version:
            return True
        try:
            await self._registry.set_alias(run.tenant, run.adapter, PRODUCTION, run.version or 0, run.parent)
        except AliasMoved:
            return False
        return True

    async def open_canary(self, run: Run) -> None:
        """Let the version answer its share of the requests."""
        await self._registry.set_alias(run.tenant, run.adapter, CANARY, run.version or 0)

    async def close_canary(self, run: Run) -> None:
        """End its share; nothing happens if another version has it, or if the adapter was deleted."""
        adapter = self._registry.snapshot.find_adapter(run.tenant, run.adapter)
        if adapter is not None and run.version is not None and adapter.aliases.get(CANARY) == run.version:
            with suppress(NotFound):
                await self._registry.delete_alias(run.tenant, run.adapter, CANARY)

    async def canary_verdict(self, run: Run, policy: Policy) -> tuple[bool | None, str]:
        """Whether the canary is as good as its parent on live feedback; None while that cannot be said."""
        scores = await self._store.scores(run.tenant, run.adapter)
        own, parent = scores.get(run.version or 0, Score()), scores.get(run.parent or 0, Score())
        count, over = own.up + own.down, time.time() - (run.canary_since or 0) >= policy.canary_s
        before = parent.up + parent.down
        p = fisher(own.up, count, parent.up, before) if count and before else 1.0
        told = f"canary: {own.up} of {count} liked, parent {parent.up} of {before}, p = {p:.4f}"
        if count >= policy.canary_events or over:
            return p > _WORSE_P, told
        return None, told
