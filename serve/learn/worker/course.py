"""The course of one run, from the queue to its end; a worker that was killed goes on where the last state says."""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import ConfigError, Conflict, CorruptBlob, InvalidInput, LimitReached, NotFound
from polyad.adapters_store.feedback import Ending, FeedbackStore, Interaction, Lease, Policy, Queued, Run, Runs
from polyad.adapters_store.names import PRODUCTION
from polyad.adapters_store.registry import Registry
from polyad.serve.learn.data import Dataset, Memory, build, convert
from polyad.serve.learn.gate import Verdict
from polyad.serve.learn.settings import LearnSettings
from polyad.serve.learn.train import TrainingFailed
from polyad.serve.learn.worker.leftovers import remove_leftovers
from polyad.serve.learn.worker.publication import Publication
from polyad.serve.learn.worker.reins import Cancelled, Reins, held, thinned
from polyad.serve.learn.worker.timing import rest_s
from polyad.serve.learn.worker.workshop import CANDIDATE, Bench, Workshop, libraries

MAX_ATTEMPTS = 5
# What ends a run with a reason; anything else is a defect, and ends the attempt.
_ENDS = (TrainingFailed, InvalidInput, NotFound, Conflict, LimitReached, ConfigError, CorruptBlob)


class Course:
    def __init__(
        self,
        registry: Registry,
        blobs: BlobStore,
        store: FeedbackStore,
        runs: Runs,
        workshop: Workshop,
        folder: Path,
        publication: Publication,
        lease_s: float,
        report: Callable[[str], None],
    ) -> None:
        self._registry = registry
        self._blobs = blobs
        self._store = store
        self._runs = runs
        self._workshop = workshop
        self._folder = folder
        self._publication = publication
        self._lease_s = lease_s
        self._report = report

    async def advance(self, lease: Lease, run: Run, policy: Policy) -> Run:
        """As far as it goes now: to its end, to a person's decision, or to a canary that has to be waited for."""
        self._latest, self._policy = run, policy
        try:
            order = await self._runs.order(run)
            if order == "cancel":
                raise Cancelled("it was cancelled")
            if run.state == "waiting":
                return await self._decided(lease, run, policy, order)
            if run.state == "canary":
                return await self._watch_canary(lease, run, policy)
            return await self._attempt(lease, run, policy)
        except Cancelled as error:
            await self._publication.close_canary(run)
            return await self._end(lease, self._latest, "cancelled", str(error), Ending())
        except _ENDS as error:
            return await self._fail(lease, self._latest, f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            # Whoever runs the worker ends it: that is no failed attempt.
            if self._latest.attempts > run.attempts:
                await self._runs.save(lease, self._latest.model_copy(update={"attempts": run.attempts}))
            raise

    async def _attempt(self, lease: Lease, run: Run, policy: Policy) -> Run:
        if run.attempts >= MAX_ATTEMPTS:
            return await self._fail(
                lease, run, f"it was begun {run.attempts} times and never ended: killed, or crashed"
            )
        await remove_leftovers(self._folder, self._runs)
        settings, run = await self._begin(lease, run, policy)
        queued, interactions, memory = await self._material(run, settings)
        folder = self._folder / run.id
        async with held(self._runs, lease, run, self._lease_s, self._report) as reins:
            async with self._blobs.lease(run.parent_digest or "") as parent:
                bench = await asyncio.to_thread(self._workshop.open, parent, settings, reins.check)
                try:
                    return await self._on_bench(bench, reins, lease, queued, interactions, memory, settings, policy)
                finally:
                    await asyncio.to_thread(self._workshop.close, bench)
                    if reins.run.is_over or reins.run.state in ("waiting", "canary"):
                        shutil.rmtree(folder, ignore_errors=True)

    async def _begin(self, lease: Lease, run: Run, policy: Policy) -> tuple[LearnSettings, Run]:
        changes = {"attempts": run.attempts + 1, "libraries": libraries()}
        if run.parent is None:
            changes |= self._parent(run)
        # Before anything fails that would fail again: the events count this run among their tries.
        self._latest = run = await self._taken(run, policy)
        settings = LearnSettings.read(policy.settings)
        return settings, await self._enter(lease, run, "collecting", config=settings.model_dump(), **changes)

    def _parent(self, run: Run) -> dict[str, Any]:
        parent = self._registry.snapshot.resolve(run.tenant, run.adapter, PRODUCTION)
        if parent.base != self._publication.base:
            raise InvalidInput("parent", parent.base, f"{self._publication.base}, the base model of this worker")
        created = self._registry.snapshot.adapter(run.tenant, run.adapter).created
        return {"adapter_created": created, "parent": parent.number, "parent_digest": parent.digest}

    async def _taken(self, run: Run, policy: Policy) -> Run:
        if run.entries:
            return run
        try:
            limit = LearnSettings.read(policy.settings).data.max_events
        except InvalidInput:
            limit = LearnSettings().data.max_events
        queued = await self._store.collect(run.tenant, run.adapter, limit)
        return run.model_copy(update={"entries": tuple(event.entry for event in queued)})

    async def _material(self, run: Run, settings: LearnSettings) -> tuple[list[Queued], dict[str, Interaction], Memory]:
        queued = await self._store.collect(run.tenant, run.adapter, settings.data.max_events)
        if run.entries:
            # It goes on: what has come in since belongs to the next run.
            own = set(run.entries)
            queued = [event for event in queued if event.entry in own]
        interactions = await self._store.interactions(run.tenant, (event.feedback.response for event in queued))
        memory = Memory.read(await self._store.memory(run.tenant, run.adapter), time.time())
        return queued, interactions, memory

    async def _on_bench(
        self,
        bench: Bench,
        reins: Reins,
        lease: Lease,
        queued: list[Queued],
        interactions: dict[str, Interaction],
        memory: Memory,
        settings: LearnSettings,
        policy: Policy,
    ) -> Run:
        run = reins.run
        dataset, poison = await reins.thread(bench.dataset, queued, interactions, memory)
        await self._runs.keep_decisions(run, [decision.model_dump() for decision in dataset.decisions])
        counts = {"taken": len(queued), "poison": len(poison)}
        run = run.model_copy(
            update={"entries": tuple(one.entry for one in queued), "events": counts, "dataset": dataset.counts}
        )
        if not dataset.train or len(dataset.held_out) < settings.gate.min_held_out:
            reins.run = await self._too_little(lease, run, dataset, settings, poison)
            return reins.run
        run = reins.run = await self._enter(lease, run, "training")
        candidate, run = await self._train(bench, reins, dataset)
        run = reins.run = await self._enter(lease, run, "gating", candidate=candidate)
        verdict = await reins.thread(bench.judge, self._folder / run.id / CANDIDATE, dataset.held_out)
        reins.run = await self._judged(lease, run, verdict, policy, poison)
        return reins.run

    async def _train(self, bench: Bench, reins: Reins, dataset: Dataset) -> tuple[str, Run]:
        run = reins.run
        folder = self._folder / run.id
        folder.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        async with reins.training():
            digest, curve = await reins.thread(bench.train, dataset, run.parent or 0, folder, reins.watch)
        await self._blobs.put(folder / CANDIDATE, digest)
        metrics = {"train_s": round(time.monotonic() - began, 3), "first_loss": curve[0][1], "last_loss": curve[-1][1]}
        steps = {"step": len(curve), "steps": len(curve), "curve": thinned(curve)}
        return digest, run.model_copy(update={**steps, "metrics": metrics})

    async def _too_little(
        self, lease: Lease, run: Run, dataset: Dataset, settings: LearnSettings, poison: list[tuple[str, str]]
    ) -> Run:
        """The events stay for the next run, but for those that nothing can be made of."""
        reason = (
            f"{len(dataset.train)} examples to train on and {len(dataset.held_out)} held out; "
            f"1 and {settings.gate.min_held_out} are needed"
        )
        return await self._end(lease, run, "empty", reason, Ending(poison=poison))

    async def _judged(
        self, lease: Lease, run: Run, verdict: Verdict, policy: Policy, poison: list[tuple[str, str]]
    ) -> Run:
        evidence = tuple(finding.model_dump(mode="json") for finding in verdict.findings)
        run = run.model_copy(update={"passed": verdict.passed, "evidence": evidence})
        if not verdict.passed:
            return await self._turn_down(lease, run, verdict.reason, poison)
        if policy.mode == "ask":
            return await self._enter(lease, run, "waiting", reason=f"passed the gate: {verdict.reason}")
        return await self._publish(lease, run.model_copy(update={"reason": verdict.reason}), policy)

    async def _decided(self, lease: Lease, run: Run, policy: Policy, order: str | None) -> Run:
        if order == "approve":
            return await self._publish(lease, run, policy)
        if order == "reject":
            return await self._turn_down(lease, run, "a person turned it down", None)
        return run

    async def _publish(self, lease: Lease, run: Run, policy: Policy) -> Run:
        await self._runs.renew(lease, self._lease_s)
        version = await self._publication.register(run, quarantined=False)
        run = run.model_copy(update={"version": version.number})
        if policy.canary_share > 0:
            await self._publication.open_canary(run)
            return await self._enter(lease, run, "canary", canary_since=time.time())
        return await self._promote(lease, run, run.reason)

    async def _watch_canary(self, lease: Lease, run: Run, policy: Policy) -> Run:
        good, told = await self._publication.canary_verdict(run, policy)
        if good is None:
            return run
        run = run.model_copy(update={"metrics": {**run.metrics, "canary": told}})
        if good:
            return await self._promote(lease, run, f"{run.reason}; {told}")
        await self._publication.close_canary(run)
        return await self._end(lease, run, "rejected", told, await self._used(run, None))

    async def _promote(self, lease: Lease, run: Run, reason: str) -> Run:
        await self._runs.renew(lease, self._lease_s)
        promoted = await self._publication.promote(run)
        await self._publication.close_canary(run)
        if not promoted:
            return await self._fail(lease, run, f"production is no longer v{run.parent}: somebody else moved it")
        return await self._end(lease, run, "published", reason, await self._used(run, None, learnt=True))

    async def _turn_down(self, lease: Lease, run: Run, reason: str, poison: list[tuple[str, str]] | None) -> Run:
        version = await self._publication.register(run, quarantined=True)
        run = run.model_copy(update={"version": version.number})
        return await self._end(lease, run, "rejected", reason, await self._used(run, poison))

    async def _used(self, run: Run, poison: list[tuple[str, str]] | None, learnt: bool = False) -> Ending:
        """All events of the run leave the queue; what was learnt is remembered for later runs."""
        settings = LearnSettings.read(run.config)
        queued, interactions, memory = await self._material(run, settings)
        converted = convert(queued, interactions, settings.data.approved)
        poison = converted.poison if poison is None else poison
        buried = {entry for entry, _ in poison}
        used = [entry for entry in run.entries if entry not in buried]
        if not learnt:
            return Ending(used=used, poison=poison)
        kept = {one["example"] for one in await self._runs.decisions(run) if one["kept"]}
        # Without curators: they would need the model, and what they chose is on record.
        plain = settings.data.model_copy(update={"curators": []})
        dataset = build(converted, memory, plain)
        train = [example for example in dataset.train if example.id in kept]
        written = memory.grown(train, dataset.held_out, settings).written()
        old = await self._store.memory(run.tenant, run.adapter)
        remember = [(id, text) for id, text in written.items() if id not in old]
        return Ending(used=used, poison=poison, remember=remember, forget=[id for id in old if id not in written])

    async def _fail(self, lease: Lease, run: Run, reason: str) -> Run:
        """The events stay for the next run, but not for ever."""
        return await self._end(lease, run, "failed", reason, Ending(failed=run.entries))

    async def _enter(self, lease: Lease, run: Run, state: str, **changes: Any) -> Run:
        self._latest = await self._runs.save(lease, _moved(run, state, **changes))
        return self._latest

    async def _end(self, lease: Lease, run: Run, state: str, reason: str, ending: Ending) -> Run:
        over = _moved(run, state, reason=reason, ended=time.time())
        ending = replace(ending, rest_s=rest_s(self._policy, over, time.time()))
        shutil.rmtree(self._folder / run.id, ignore_errors=True)
        return await self._runs.save(lease, over, ending)


def _moved(run: Run, state: str, **changes: Any) -> Run:
    now = time.time()
    history = (*run.history, (now, state))
    return Run.model_validate({**run.model_dump(), **changes, "state": state, "changed": now, "history": history})
