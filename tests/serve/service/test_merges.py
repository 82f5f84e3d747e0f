"""Merges over a real registry, real blobs and real worker processes; only the engine is missing."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from polyad.adapters_store import registry as records
from polyad.adapters_store.admission import Limits, admit
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.delta import dense, read_delta
from polyad.adapters_store.errors import (
    Conflict,
    EngineUnavailable,
    InvalidName,
    LimitReached,
    MergeFailed,
    MergePending,
    PolyadError,
    UnknownMerge,
    UnknownModel,
)
from polyad.adapters_store.merge import Execution, Recipe
from polyad.adapters_store.registry import EmbeddedRedis, MergedVersion, MergeEntry, Registry, Version, VersionDraft
from polyad.adapters_store.source import AdapterFiles, SourcePolicy
from polyad.serve.compose import Merges, Plan, Resolver, parse
from polyad.serve.service import (
    AdapterService,
    Collector,
    Job,
    MergeLimits,
    MergeProcess,
    MergeResults,
    MergeService,
    Saved,
    merges,
)
from polyad.serve.service.merge_process import Progress

TENANT = "public"
MODEL = "ties(a, b*0.5; density=0.4)"


class Counting(MergeProcess):
    """The real worker; counts its runs, and can hold them back until they are let go."""

    def __init__(self) -> None:
        super().__init__(None, 1, 16)
        self.runs = 0
        self.may_run = asyncio.Event()
        self.may_run.set()

    async def run(self, recipe: Recipe, sources: Any, out: Path, progress: Progress) -> dict[str, Any]:
        self.runs += 1
        await self.may_run.wait()
        return await super().run(recipe, sources, out, progress)


@dataclass
class Engine:
    """What it was told to load, and the error that it answers with."""

    warmed: list[str] = field(default_factory=list)
    failure: PolyadError | None = None

    async def warm(self, plan: Plan) -> None:
        if self.failure is not None:
            raise self.failure
        self.warmed.append(plan.label)


@pytest.fixture
def engine() -> Engine:
    return Engine()


class NoLeases:
    def leased(self, version: Version) -> bool:
        return False


Make = Callable[..., Awaitable[MergeService]]


@pytest.fixture
async def make(
    redis: EmbeddedRedis, blobs: BlobStore, tiny_base: BaseModel, tmp_path: Path, engine: "Engine"
) -> AsyncIterator[Make]:
    """Servers on one registry: `await make(wait_s=0.1)`."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    async with AsyncExitStack() as stack:

        async def made(**limits: float) -> MergeService:
            registry = Registry(redis.url)
            await registry.start()
            stack.push_async_callback(registry.close)
            known = Merges(16)
            resolver = Resolver(registry.snapshot, TENANT, ["base"], tiny_base.fingerprint, merges=known)
            given: dict[str, Any] = {"wait_s": 60, "retry_s": 60} | limits
            results = MergeResults(registry, blobs, known, Counting(), NoLeases(), scratch, 10**9)
            policy = SourcePolicy(allowed_urls=(), hub=False, max_bytes=0)
            pushing = AdapterService(
                registry, blobs, tiny_base, Limits(max_rank=16), policy, scratch, engine.warm, tenant=TENANT
            )
            service = MergeService(registry, resolver, results, MergeLimits(**given), pushing, TENANT, ["base"])
            stack.push_async_callback(service.close)
            return service

        yield made


@pytest.fixture
async def adapters(
    registry: Registry, blobs: BlobStore, tiny_base: BaseModel, make_files: Callable[..., AdapterFiles], tmp_path: Path
) -> dict[str, Version]:
    """a, b and c, pushed."""
    pushed = {}
    for seed, name in enumerate("abc"):
        files = make_files(seed)
        path = tmp_path / f"{name}.delta"
        admitted = admit(files.config, files.weights, tiny_base, Limits(max_rank=16), path)
        await blobs.put(path, admitted.digest)
        draft = VersionDraft(
            digest=admitted.digest,
            size=admitted.size,
            base=admitted.base,
            rank=admitted.rank,
            targets=admitted.targets,
            source="upload",
        )
        pushed[name], _ = await registry.add_version(TENANT, name, draft)
    return pushed


async def eventually(service: MergeService, job: str, holds: Callable[[Job], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds(await service.job(job)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def runs(service: MergeService) -> int:
    assert isinstance(service.results.process, Counting)
    return service.results.process.runs


def hold(service: MergeService) -> asyncio.Event:
    assert isinstance(service.results.process, Counting)
    service.results.process.may_run.clear()
    return service.results.process.may_run


async def test_it_is_computed_once_and_is_what_the_recipe_says(
    make: Make, adapters: dict[str, Version], blobs: BlobStore
) -> None:
    service = await make()
    await asyncio.gather(*(service.prepare(MODEL) for _ in range(5)))
    await service.prepare(MODEL)
    assert runs(service) == 1
    plan = service.resolver.plan(MODEL)
    (version,) = plan.versions
    assert isinstance(version, MergedVersion)
    assert plan.label == "ties(a@v1, b@v1*0.5; density=0.4)"
    assert version.recipe is not None
    recipe = Recipe.from_dict(json.loads(version.recipe))
    deltas = {one.digest: read_delta(await blobs.fetch(one.digest)) for one in adapters.values()}
    expected = Execution(recipe=recipe, deltas=deltas).run().delta
    found = read_delta(await blobs.fetch(version.digest))
    for module, change in expected.modules.items():
        one, other = dense(change)[0], dense(found.modules[module])[0]
        assert one is not None and other is not None
        assert torch.equal(one, other)


async def test_two_servers_on_one_registry_merge_once(make: Make, adapters: dict[str, Version]) -> None:
    one, other = await make(), await make()
    await asyncio.gather(one.prepare(MODEL), other.prepare(MODEL), one.prepare(MODEL))
    assert runs(one) + runs(other) == 1
    assert one.resolver.plan(MODEL) == other.resolver.plan(MODEL)
    third = await make()
    await third.prepare(MODEL)
    assert runs(third) == 0


async def test_who_waits_too_long_is_told_the_job(make: Make, adapters: dict[str, Version]) -> None:
    service, other = await make(wait_s=0.2), await make(wait_s=0.2)
    go = hold(service)
    with pytest.raises(MergePending, match="is being merged") as raised:
        await service.prepare(MODEL)
    (job,) = await service.jobs()
    assert job.status == "running" and job.id in str(raised.value)
    assert (await other.job(job.id)).status == "running"
    go.set()
    await eventually(service, job.id, lambda job: job.status == "done")
    done = await other.job(job.id)
    assert (done.status, done.text) == ("done", "ties(a@v1, b@v1*0.5; density=0.4)")
    assert done.entry is not None and done.entry.report["method"] == "ties"
    await service.prepare(MODEL)
    assert runs(service) == 1


async def test_a_cancelled_merge_fails_who_waits_and_can_be_asked_for_again(
    make: Make, adapters: dict[str, Version]
) -> None:
    service, other = await make(), await make()
    go = hold(service)
    waiting = asyncio.create_task(service.prepare(MODEL))
    id = service.resolver.draft(parse(MODEL), "x").id
    while [job.status for job in await service.jobs()] != ["running"]:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    with pytest.raises(Conflict, match="by another server"):
        await other.cancel(id)
    cancelled = await service.cancel(id)
    assert (cancelled.status, cancelled.error) == ("failed", "it was cancelled")
    with pytest.raises(MergeFailed, match="it was cancelled"):
        await waiting
    go.set()
    await other.prepare(MODEL)
    assert (await service.job(id)).status == "done"
    with pytest.raises(Conflict, match="has ended"):
        await service.cancel(id)


async def test_a_failure_is_told_and_not_tried_again(make: Make, adapters: dict[str, Version]) -> None:
    service, other = await make(retry_s=1.5), await make()
    service.results.process = Broken()
    with pytest.raises(MergeFailed, match="the worker ended"):
        await service.prepare(MODEL)
    with pytest.raises(MergeFailed, match="not tried again"):
        await service.prepare(MODEL)
    with pytest.raises(MergeFailed, match="not tried again"):
        await other.prepare(MODEL)
    assert runs(other) == 0
    job = await other.job(service.resolver.draft(parse(MODEL), "x").id)
    assert job.status == "failed" and "the worker ended" in str(job.error)
    await asyncio.sleep(1.6)
    await other.prepare(MODEL)
    assert runs(other) == 1


class Broken(Counting):
    """A worker that dies at once, as one does that the machine has no memory for."""

    async def run(self, recipe: Recipe, sources: Any, out: Path, progress: Progress) -> dict[str, Any]:
        sources = dict.fromkeys(sources, Path("/nonexistent"))
        return await super().run(recipe, sources, out, progress)


async def test_a_killed_worker_leaves_nothing(make: Make, adapters: dict[str, Version], blobs: BlobStore) -> None:
    service = await make(retry_s=0.3)
    before = {blob.digest for blob in await blobs.digests()}
    waiting = asyncio.create_task(service.prepare(MODEL))
    killed = 0
    while not killed:
        for pid in _workers():
            os.kill(pid, signal.SIGKILL)
            killed += 1
        await asyncio.sleep(0.02)
    with pytest.raises(MergeFailed, match="worker"):
        await waiting
    assert {blob.digest for blob in await blobs.digests()} == before
    assert await service.registry.merges.entries() == []
    assert list(service.results.scratch.iterdir()) == []
    await asyncio.sleep(0.4)
    await service.prepare(MODEL)
    assert len(await service.registry.merges.entries()) == 1


def _workers() -> list[int]:
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "merge.worker" in line]


async def test_a_server_that_dies_while_it_merges_is_followed_by_another(
    make: Make, adapters: dict[str, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyad.serve.service.merges._LEASE_S", 0.5)
    ledger = (await make()).registry.merges
    service = await make()
    # a lease whose holder is gone
    assert await ledger.acquire(TENANT, service.resolver.draft(parse(MODEL), "x").id, "gone", 0.5)
    await service.prepare(MODEL)
    assert runs(service) == 1


async def test_results_are_evicted_beyond_the_bound(
    make: Make, adapters: dict[str, Version], blobs: BlobStore, registry: Registry
) -> None:
    service = await make()
    await service.prepare("ties(a, b; density=0.5)")
    (first,) = await registry.merges.entries()
    service.results.cache_bytes = int(first.size * 1.5)
    service.results.grace_s = 0
    await service.prepare("ties(b, c; density=0.5)")
    (second,) = await registry.merges.entries()
    assert second.id != first.id
    held = {blob.digest for blob in await blobs.digests()}
    assert second.digest in held and first.digest not in held
    await service.prepare("ties(a, b; density=0.5)")
    assert runs(service) == 3


async def test_results_that_were_just_computed_are_not_evicted_yet(
    make: Make, adapters: dict[str, Version], blobs: BlobStore
) -> None:
    service = await make()
    service.results.cache_bytes = 0
    for density in ("0.5", "0.6"):
        await service.prepare(f"ties(a, b; density={density})")
    first, second = await service.registry.merges.entries()
    await blobs.fetch(first.digest)
    await long_ago(service, blobs, first)
    await service.results.evict(second)
    assert await service.registry.merges.entries() == [second]
    assert first.digest not in {blob.digest for blob in await blobs.digests()}


async def long_ago(service: MergeService, blobs: BlobStore, entry: MergeEntry) -> None:
    """Make it look as if the result was computed yesterday, and used last."""
    os.utime(await blobs.fetch(entry.digest), (entry.created - 86400,) * 2)
    await service.registry.merges.add(entry.model_copy(update={"created": entry.created - 86400}))


async def test_a_result_that_is_saved_while_it_is_evicted_keeps_its_bytes(
    make: Make, adapters: dict[str, Version], blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, other = await make(), await make()
    await service.prepare(MODEL)
    await service.prepare("ties(b, c; density=0.5)")
    service.results.cache_bytes = 0
    first, second = await service.registry.merges.entries()
    await long_ago(service, blobs, first)
    remove = service.registry.merges.remove

    async def saved_first(entry: MergeEntry) -> None:
        job = await other.submit(parse(MODEL), Saved(name="kept"))
        assert job.version is not None and job.version.digest == entry.digest
        await remove(entry)

    monkeypatch.setattr(service.registry.merges, "remove", saved_first)
    await service.results.evict(second)
    assert first.id not in {entry.id for entry in await service.registry.merges.entries()}
    await blobs.fetch(other.registry.snapshot.resolve(TENANT, "kept").digest)


async def test_results_in_a_root_of_two_registries_leave_their_bytes(
    make: Make, adapters: dict[str, Version], blobs: BlobStore
) -> None:
    service = await make()
    await service.prepare(MODEL)
    await service.prepare("ties(b, c; density=0.5)")
    service.results.cache_bytes = 0
    first, second = await service.registry.merges.entries()
    await long_ago(service, blobs, first)
    await blobs.claim("another")
    await service.results.evict(second)
    assert await service.registry.merges.entries() == [second]
    await blobs.fetch(first.digest)


async def test_what_another_server_evicted_is_computed_again(make: Make, adapters: dict[str, Version]) -> None:
    service, other = await make(), await make()
    await service.prepare(MODEL)
    (entry,) = await other.registry.merges.entries()
    await other.registry.merges.remove(entry)
    await other.results.blobs.delete(entry.digest)
    await service.prepare(MODEL)
    assert runs(service) == 2
    (again,) = await other.registry.merges.entries()
    assert again.digest == entry.digest


async def test_collection_spares_results(make: Make, adapters: dict[str, Version], blobs: BlobStore) -> None:
    service = await make()
    await service.prepare(MODEL)
    collected = await Collector(service.registry, blobs, NoLeases(), 0, TENANT).collect(dry_run=False)
    assert collected.blobs == []
    await blobs.fetch(service.resolver.plan(MODEL).versions[0].digest)


async def test_a_merge_is_saved_as_a_version_with_its_recipe(make: Make, adapters: dict[str, Version]) -> None:
    service = await make()
    job = await service.submit(parse(MODEL), Saved(name="both", alias="canary"))
    await eventually(service, job.id, lambda job: job.version is not None)
    version = service.registry.snapshot.resolve(TENANT, "both", "canary")
    assert version.kind == "merge"
    assert version.source == "merge: ties(a@v1, b@v1*0.5; density=0.4)"
    assert version.recipe is not None
    again = await service.submit(parse(MODEL), Saved(name="both"))
    assert again.version is not None and again.version.number == version.number
    assert runs(service) == 1
    blend = await service.submit(parse("a*0.7 + b*0.3"), Saved(name="sum"))
    await eventually(service, blend.id, lambda job: job.version is not None)
    assert service.registry.snapshot.resolve(TENANT, "sum", "v1").rank == 8


async def test_what_cannot_be_saved_is_refused_before_it_is_computed(make: Make, adapters: dict[str, Version]) -> None:
    service = await make()
    await service.registry.set_composition(TENANT, "helpful", "a")
    for name, kind in (("Both", InvalidName), ("base", InvalidName), ("helpful", Conflict)):
        with pytest.raises(kind):
            await service.submit(parse(MODEL), Saved(name=name))
    with pytest.raises(UnknownModel):
        await service.submit(parse("ties(a, nobody)"))
    assert runs(service) == 0


async def test_a_result_that_cannot_be_stored_is_not_computed_again_at_once(
    make: Make, adapters: dict[str, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, other = await make(), await make()

    async def full(*_: object) -> None:
        raise OSError("no space left on the device that holds the secret folder")

    monkeypatch.setattr(service.results.blobs, "put", full)
    with pytest.raises(MergeFailed, match=r"^merge: the server failed \(OSError\)$"):
        await service.prepare(MODEL)
    for one in (service, other, service):
        with pytest.raises(MergeFailed, match=r"^merge: the server failed \(OSError\) \(not tried again"):
            await one.prepare(MODEL)
    assert runs(service) + runs(other) == 1
    job = await service.job(service.resolver.draft(parse(MODEL), "x").id)
    assert (job.status, job.error) == ("failed", "merge: the server failed (OSError)")


async def test_what_finds_no_place_in_the_line_leaves_no_job(
    make: Make, adapters: dict[str, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merges, "_MOST_OF_TENANT", 1)
    service = await make()
    go = hold(service)
    await service.submit(parse(MODEL))
    for seed in range(3):
        with pytest.raises(MergePending, match="the line is full"):
            await service.submit(parse(f"dare_linear(a, b; seed={seed})"))
    assert [job.text for job in await service.jobs()] == ["ties(a@v1, b@v1*0.5; density=0.4)"]
    go.set()


async def test_a_saved_merge_is_loaded_before_its_alias_moves(
    make: Make, adapters: dict[str, Version], engine: Engine
) -> None:
    service = await make()
    engine.failure = EngineUnavailable("the engine is restarting")
    job = await service.submit(parse(MODEL), Saved(name="both", alias="canary"))
    await eventually(service, job.id, lambda job: job.status == "failed")
    assert (await service.job(job.id)).error == "the engine is restarting"
    assert "canary" not in service.registry.snapshot.adapter(TENANT, "both").aliases
    engine.failure = None
    again = await service.submit(parse(MODEL), Saved(name="both", alias="canary"))
    assert again.version is not None and engine.warmed == ["both@v1"]
    assert service.registry.snapshot.adapter(TENANT, "both").aliases["canary"] == 1


async def test_a_tenants_limits_hold_for_saved_merges(make: Make, adapters: dict[str, Version]) -> None:
    service = await make()
    await service.registry.set_limits(TENANT, records.Limits(max_adapters=3))
    with pytest.raises(LimitReached, match="max_adapters"):
        await service.submit(parse(MODEL), Saved(name="both"))
    assert runs(service) == 0
    _, used = service.registry.snapshot.usage(TENANT)
    await service.registry.set_limits(TENANT, records.Limits(max_bytes=used + 1))
    job = await service.submit(parse(MODEL), Saved(name="both"))
    await eventually(service, job.id, lambda job: job.status == "failed")
    assert str((await service.job(job.id)).error).startswith("max_bytes: ")
    assert service.registry.snapshot.find_adapter(TENANT, "both") is None


async def test_a_nested_merges_job_is_waited_for_within_the_limit(make: Make, adapters: dict[str, Version]) -> None:
    service = await make(wait_s=0.2)
    go = hold(service)
    with pytest.raises(MergePending, match="expression: dare_linear.* is being merged"):
        await service.submit(parse("ties(dare_linear(a, b; seed=1), c)"))
    go.set()


async def test_an_unknown_job_is_said_so(make: Make) -> None:
    with pytest.raises(UnknownMerge):
        await (await make()).job("0" * 64)


async def test_nested_merges_are_computed_from_the_inside(make: Make, adapters: dict[str, Version]) -> None:
    service = await make()
    model = "ties(dare_linear(a, b; seed=1), c)*0.5 + a"
    await service.prepare(model)
    assert runs(service) == 2
    assert service.resolver.plan(model).label == "a@v1 + ties(dare_linear(a@v1, b@v1; seed=1), c@v1)*0.5"


async def test_known_results_are_served_while_redis_is_away(
    make: Make, adapters: dict[str, Version], redis: EmbeddedRedis
) -> None:
    service = await make()
    await service.prepare(MODEL)
    await redis.stop()
    await service.prepare(MODEL)
    service.resolver.plan(MODEL)
