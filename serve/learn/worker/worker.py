"""The worker: looks for adapters with enough feedback, and takes one run after the other to its end."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import Conflict, NotFound, RegistryUnavailable, Unavailable
from polyad.adapters_store.feedback import FeedbackStore, Fenced, Lease, Policies, Policy, Run, Runs
from polyad.adapters_store.names import PRODUCTION
from polyad.adapters_store.registry import Registry
from polyad.serve.learn.worker.course import Course
from polyad.serve.learn.worker.publication import Publication
from polyad.serve.learn.worker.timing import due
from polyad.serve.learn.worker.workshop import Workshop

logger = logging.getLogger(__name__)

_AWAY_S = 1.0
_BROKEN_S = 10.0


class Worker:
    """Any number of workers may share a Redis: an adapter's run belongs to whoever holds the adapter's lease."""

    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        store: FeedbackStore,
        policies: Policies,
        runs: Runs,
        workshop: Workshop,
        folder: Path,
        *,
        base: str,
        lease_s: float = 30.0,
        poll_s: float = 1.0,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._registry = registry
        self._store = store
        self._policies = policies
        self._runs = runs
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._report = report
        publication = Publication(registry, blobs, store, runs, base)
        self._course = Course(registry, blobs, store, runs, workshop, folder, publication, lease_s, report)
        self._base = base

    async def work(self) -> None:
        """For ever. Redis being away is waited for."""
        while True:
            try:
                await self.look()
                await asyncio.sleep(self._poll_s)
            except Unavailable as error:
                logger.warning("learn: %s", error)
                await asyncio.sleep(_AWAY_S)

    async def look(self) -> int:
        """Take every open run as far as it goes, after beginning those that are due; how many there were."""
        await self._policies.read()
        worked = 0
        # A run may outlive its policy, which goes with a deleted adapter.
        for tenant, adapter in sorted({*self._policies.all(), *await self._runs.open()}):
            if await self._attend(tenant, adapter, self._policies.get(tenant, adapter)):
                worked += 1
        return worked

    async def _attend(self, tenant: str, adapter: str, policy: Policy) -> bool:
        run = await self._runs.active(tenant, adapter) or await self._due(tenant, adapter, policy)
        if run is None:
            return False
        lease = await self._runs.lease(tenant, adapter, self._lease_s)
        if lease is None:
            return False
        held_s = 0.0
        try:
            await self._advance(lease, policy)
        except (Fenced, Unavailable) as error:
            logger.warning("learn: %s", error)
        except Exception:
            # A defect counts as an attempt; the other adapters are not to suffer for it.
            logger.exception("learn: the run of adapter %s broke off", adapter)
            held_s = _BROKEN_S
        finally:
            await self._give_back(lease, held_s)
        return True

    async def _advance(self, lease: Lease, policy: Policy) -> None:
        # Read again under the lease: another worker may have ended it meanwhile.
        run = await self._runs.active(lease.tenant, lease.adapter)
        if run is None:
            return
        ended = await self._course.advance(lease, run, policy)
        if ended.is_over:
            self._report(f"{ended.adapter}: {ended.id} {ended.state}: {ended.reason}")

    async def _due(self, tenant: str, adapter: str, policy: Policy) -> Run | None:
        if not policy.keeps or not self._can_go_on(tenant, adapter):
            return None
        trigger = due(policy, *await self._store.waiting(tenant, adapter), time.time())
        if trigger is None or await self._runs.rests(tenant, adapter):
            return None
        try:
            return await self._runs.begin(tenant, adapter, trigger)
        except Conflict:
            return None  # another worker was faster

    def _can_go_on(self, tenant: str, adapter: str) -> bool:
        """Not from another base model: workers with that one may be on this Redis too."""
        try:
            return self._registry.snapshot.resolve(tenant, adapter, PRODUCTION).base == self._base
        except NotFound:
            return False

    async def _give_back(self, lease: Lease, held_s: float) -> None:
        """At once, or in `held_s` seconds: until then no worker takes it."""
        try:
            await self._runs.renew(lease, held_s)
        except (Fenced, RegistryUnavailable) as error:
            logger.warning("learn: a lease was not given back, it ends by itself: %s", error)
