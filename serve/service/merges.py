"""Merges on the fly: each is computed once for all servers on one registry, cached, and served like an adapter."""

import asyncio
import copy
import logging
import secrets
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

from polyad.adapters_store.ending import end
from polyad.adapters_store.errors import (
    Conflict,
    InvalidInput,
    InvalidName,
    MergeFailed,
    MergePending,
    NotFound,
    PolyadError,
    RegistryUnavailable,
    UnknownMerge,
)
from polyad.adapters_store.names import check_alias, check_name
from polyad.adapters_store.registry import MergedVersion, MergeEntry, Registry, Version, VersionDraft
from polyad.serve.compose import Expression, MergeDraft, MissingMerge, Resolver
from polyad.serve.service.adapters import AdapterService
from polyad.serve.service.merge_job import Job, Saved, job_of_progress
from polyad.serve.service.merge_results import MergeResults

logger = logging.getLogger(__name__)

_LEASE_S = 15.0
_RENEW_S = 3.0
_FIRST_POLL_S = 0.05
_LAST_POLL_S = 1.0
# Deeper than any expression: each round computes one merge of it.
_ROUNDS = 64
_MOST_JOBS = 64
# Of one tenant, so that it does not keep all others waiting.
_MOST_OF_TENANT = 32
_REMEMBERED = 256


# A tenant and the digest of a recipe.
_Key = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class MergeLimits:
    """`wait_s`: how long a request waits; `retry_s`: how long a failure is remembered."""

    wait_s: float
    retry_s: float


@dataclass(eq=False)
class MergeService:
    """One tenant's merges; those of all tenants are computed in one line."""

    registry: Registry
    resolver: Resolver
    results: MergeResults
    limits: MergeLimits
    adapters: AdapterService
    tenant: str
    reserved: Collection[str] = ()
    _running: dict[_Key, asyncio.Task[MergeEntry]] = field(default_factory=dict, init=False)
    _jobs: dict[_Key, Job] = field(default_factory=dict, init=False)
    _finishing: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def of(self, tenant: str) -> "MergeService":
        """The same for another tenant's merges."""
        other = copy.copy(self)
        other.tenant, other.resolver = tenant, self.resolver.of(tenant)
        return other

    async def prepare(self, model: str) -> None:
        """Have every merge in a request's `model` computed, or known to be.

        Waits `wait_s` at most. Raises MergePending, which names the job, MergeFailed, Unavailable. What else is wrong
        with `model`, whoever resolves it says, in the form of its own protocol.
        """
        with suppress(InvalidInput, NotFound, Conflict):
            await self._prepare(model)

    async def _prepare(self, model: str) -> None:
        deadline = time.monotonic() + self.limits.wait_s
        for _ in range(_ROUNDS):
            try:
                plan = self.resolver.plan(model)
            except MissingMerge as missing:
                await self._wait("model", missing.draft, deadline)
                continue
            if all([await self._still_there(version) for version in plan.versions]):
                return
        raise MergePending(f"model: {model!r} changes faster than it can be merged")

    async def submit(self, expression: Expression, saved: Saved | None = None) -> Job:
        """Begin to compute an expression's merge, a blend too; the job. `saved` registers the result as a version.

        What a nested merge is called is known when those within are computed: for them it waits `wait_s` at most.
        Raises what `Resolver.draft` raises, InvalidName, Conflict for a name that is taken, LimitReached, MergePending.
        """
        if saved is not None:
            self._check_name(saved)
        draft = await self._draft(expression)
        entry = await self.registry.merges.find(self.tenant, draft.id)
        if entry is not None:
            self.results.known.add(entry)
            job = self._jobs[self._key(draft)] = Job.of_entry(entry)
            job.version = None if saved is None else await self._save(entry, draft, saved)
            return job
        self._task(draft)
        job = self._job(draft)
        if saved is not None:
            finishing = asyncio.create_task(self._save_when_done(draft, job, saved))
            self._finishing.add(finishing)
            finishing.add_done_callback(self._finishing.discard)
        return job

    async def job(self, recipe: str) -> Job:
        """Raises UnknownMerge."""
        local = self._jobs.get((self.tenant, recipe))
        if local is not None and local.active:
            return local
        ledger = self.registry.merges
        entry = await ledger.find(self.tenant, recipe)
        if entry is not None:
            return local if local is not None and local.entry is not None else Job.of_entry(entry)
        said = await ledger.progress(self.tenant, recipe)
        if said is not None:
            return job_of_progress(recipe, said)
        failure = await ledger.failure(self.tenant, recipe)
        if failure is not None:
            return Job(recipe, local.text if local else "", time.time(), "failed", error=failure)
        if local is not None and local.status == "failed":
            return local
        raise UnknownMerge("merge", recipe, "was not asked for, or its result was evicted")

    async def cancel(self, recipe: str) -> Job:
        """End a merge that is computed here; who waits for it gets MergeFailed.

        Raises UnknownMerge, Conflict for one that has ended or that another server computes.
        """
        job = await self.job(recipe)
        task = self._running.get((self.tenant, recipe))
        if task is None:
            state = "is computed by another server: cancel it there" if job.active else "has ended"
            raise Conflict("merge", f"{recipe} {state}")
        with suppress(MergeFailed):
            await end(task)
        return self._jobs[self.tenant, recipe]

    async def jobs(self) -> list[Job]:
        """What is computed here now, then every result of the tenant, the last used first."""
        active = [job for (tenant, _), job in self._jobs.items() if tenant == self.tenant and job.active]
        entries = [entry for entry in await self.registry.merges.entries() if entry.tenant == self.tenant]
        return [*active, *(Job.of_entry(entry) for entry in reversed(entries))]

    async def close(self) -> None:
        """Stop what is being computed; nothing of it is left."""
        tasks = [*self._running.values(), *self._finishing]
        await asyncio.gather(*map(end, tasks), return_exceptions=True)

    async def _draft(self, expression: Expression) -> MergeDraft:
        deadline = time.monotonic() + self.limits.wait_s
        for _ in range(_ROUNDS):
            try:
                return self.resolver.draft(expression, "expression")
            except MissingMerge as missing:
                await self._wait("expression", missing.draft, deadline)
        raise MergePending("expression: changes faster than it can be merged")

    async def _wait(self, field: str, draft: MergeDraft, deadline: float) -> None:
        task = self._task(draft)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await _outcome(task)
        except TimeoutError as error:
            job = self._jobs[self._key(draft)]
            how_far = f"{job.done} of {job.of} modules" if job.of else "waiting"
            message = f"{field}: {draft.text} is being merged ({how_far}): GET /v1/merges/{draft.id}, and try again"
            raise MergePending(message) from error

    async def _still_there(self, version: Version) -> bool:
        """Whether a merge's result was not evicted by another server; without Redis, what is known is served."""
        if not isinstance(version, MergedVersion) or version.recipe is None or not self.registry.live:
            return True
        recipe = _id_of(version)
        with suppress(RegistryUnavailable):
            if await self.registry.merges.find(self.tenant, recipe) is None:
                self.results.known.forget(self.tenant, recipe)
                return False
        return True

    def _job(self, draft: MergeDraft) -> Job:
        job = self._jobs.get(self._key(draft))
        if job is None or not job.active:
            job = self._jobs[self._key(draft)] = Job(draft.id, draft.text, time.time())
            ended = [key for key, one in self._jobs.items() if not one.active]
            for key in ended[: len(ended) - _REMEMBERED]:
                del self._jobs[key]
        return job

    def _key(self, draft: MergeDraft) -> _Key:
        return self.tenant, draft.id

    def _task(self, draft: MergeDraft) -> asyncio.Task[MergeEntry]:
        key = self._key(draft)
        task = self._running.get(key)
        if task is None:
            own = sum(tenant == self.tenant for tenant, _ in self._running)
            if len(self._running) >= _MOST_JOBS or own >= _MOST_OF_TENANT:
                raise MergePending(f"merges: {own} of yours are waiting already, and the line is full")
            job = self._job(draft)
            task = self._running[key] = asyncio.create_task(self._obtain(draft, job), name=f"merge-{draft.id[:12]}")
            task.add_done_callback(lambda done: self._ended(key, done))
        return task

    def _ended(self, key: _Key, task: asyncio.Task[MergeEntry]) -> None:
        del self._running[key]
        job = self._jobs[key]
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            job.status, job.error = "failed", "it was cancelled" if error is None else _reason(error)

    async def _obtain(self, draft: MergeDraft, job: Job) -> MergeEntry:
        """The entry: there already, computed by another server meanwhile, or computed here."""
        ledger, token, pause = self.registry.merges, secrets.token_hex(16), _FIRST_POLL_S
        while True:
            entry = await ledger.find(self.tenant, draft.id)
            if entry is None and (reason := await ledger.failure(self.tenant, draft.id)) is not None:
                raise MergeFailed(f"{reason} (not tried again within {self.limits.retry_s:g} s)")
            if entry is None and await ledger.acquire(self.tenant, draft.id, token, _LEASE_S):
                entry = await self._leased(draft, job, token)
            if entry is not None:
                self.results.known.add(entry)
                job.entry, job.status = entry, "done"
                return entry
            job.status = "running"
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_POLL_S)

    async def _leased(self, draft: MergeDraft, job: Job, token: str) -> MergeEntry:
        ledger = self.registry.merges
        renewing = asyncio.create_task(self._renew(draft, job, token))
        try:
            # somebody may have finished between our look and our lease
            entry = await ledger.find(self.tenant, draft.id)
            if entry is None:
                async with self._turn:
                    entry = await self.results.run(draft, job)
            return entry
        except Exception as error:
            # Whatever it was, the next request would only compute for as long and meet it again.
            with suppress(RegistryUnavailable):
                await ledger.fail(self.tenant, draft.id, _reason(error), self.limits.retry_s)
            if isinstance(error, PolyadError):
                raise
            logger.exception("merge: %s failed", draft.text)
            raise MergeFailed(_reason(error)) from error
        finally:
            await end(renewing)
            with suppress(RegistryUnavailable):
                await ledger.release(self.tenant, draft.id, token)

    async def _renew(self, draft: MergeDraft, job: Job, token: str) -> None:
        while True:
            # a lost lease costs work done twice, no more: whoever computes it too gets the same bytes
            with suppress(RegistryUnavailable):
                await self.registry.merges.renew(self.tenant, draft.id, token, _LEASE_S, job.progress)
            await asyncio.sleep(_RENEW_S)

    def _check_name(self, saved: Saved) -> None:
        check_name("save.name", saved.name)
        if saved.alias is not None:
            check_alias("save.alias", saved.alias)
        if saved.name in self.reserved:
            raise InvalidName("save.name", saved.name, "any name but the base model's")
        if self.registry.snapshot.find_composition(self.tenant, saved.name) is not None:
            raise Conflict("save.name", f"{saved.name!r} is a saved composition; an adapter needs a name of its own")
        self.registry.check_room(self.tenant, saved.name)

    async def _save_when_done(self, draft: MergeDraft, job: Job, saved: Saved) -> None:
        try:
            job.version = await self._save(await _outcome(self._task(draft)), draft, saved)
        except Exception as error:
            # Nobody awaits this: the job is where it is told.
            if not isinstance(error, PolyadError):
                logger.exception("merge: %s was not saved", draft.text)
            job.status, job.error = "failed", _reason(error)

    async def _save(self, entry: MergeEntry, draft: MergeDraft, saved: Saved) -> Version:
        # It may be evicted at this moment: what is young stays.
        await self.results.blobs.refresh(entry.digest)
        registered = VersionDraft(
            digest=entry.digest,
            size=entry.size,
            base=entry.base,
            rank=entry.rank,
            targets=entry.targets,
            source=f"merge: {draft.text}",
            kind="merge",
            recipe=entry.recipe,
        )
        aliases = [saved.alias] if saved.alias else []
        pushed = await self.adapters.of(self.tenant).publish(saved.name, registered, aliases)
        return pushed.version


async def _outcome(task: "asyncio.Task[MergeEntry]") -> MergeEntry:
    """What a merge comes to, which goes on if whoever waits leaves. Raises MergeFailed if it was cancelled itself."""
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise MergeFailed("merge: it was cancelled") from None
        raise


def _reason(error: BaseException) -> str:
    # What a defect says may hold what is not the caller's to know.
    return str(error) if isinstance(error, PolyadError) else f"merge: the server failed ({type(error).__name__})"


def _id_of(version: MergedVersion) -> str:
    return sha256((version.recipe or "").encode()).hexdigest()
