"""Adapters that are deleted while their run is open: nothing of them comes back."""

import asyncio
from typing import Any

import pytest

from polyad.adapters_store.feedback import Run
from polyad.serve.learn.worker.workshop import Bench
from polyad.serve.service import LearningService
from tests.fixtures.learning import ADAPTER, POLICY, SETTINGS, TENANT, Learning
from tests.fixtures.tiny_chat import lora

NEVER_BETTER = {**SETTINGS, "gate": {**SETTINGS["gate"], "confidence": 0.999}}
NEVER_BETTER["train"] = {**SETTINGS["train"], "learning_rate": 1e-20}

pytestmark = pytest.mark.filterwarnings("ignore")


async def delete(parts: Learning, again: bool) -> None:
    await parts.registry.delete_adapter(TENANT, ADAPTER)
    if again:
        await parts.push(lora(seed=9, size=0.1))


async def waiting(parts: Learning) -> Run:
    await parts.policies.set(TENANT, ADAPTER, POLICY.model_copy(update={"mode": "ask"}))
    await parts.give(24)
    await parts.worker().look()
    run = await parts.last_run()
    assert run.state == "waiting"
    return run


@pytest.mark.parametrize("again", [False, True], ids=["gone", "another of its name"])
@pytest.mark.parametrize("settings", [SETTINGS, NEVER_BETTER], ids=["passed", "turned down"])
async def test_while_the_gate_judges(
    parts: Learning, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], again: bool
) -> None:
    await parts.policies.set(TENANT, ADAPTER, POLICY.model_copy(update={"settings": settings}))
    await parts.give(24)
    loop, judge = asyncio.get_running_loop(), Bench.judge

    def meanwhile(self: Bench, *arguments: Any) -> Any:
        asyncio.run_coroutine_threadsafe(delete(parts, again), loop).result(10)
        return judge(self, *arguments)

    monkeypatch.setattr(Bench, "judge", meanwhile)
    await parts.worker().look()
    await check(parts, again)


@pytest.mark.parametrize("again", [False, True], ids=["gone", "another of its name"])
@pytest.mark.parametrize("approved", [False, True])
async def test_while_a_person_decides(parts: Learning, approved: bool, again: bool) -> None:
    run = await waiting(parts)
    await delete(parts, again)
    await parts.runs.decide(run, approved)
    await parts.worker().look()
    await check(parts, again)


async def check(parts: Learning, again: bool) -> None:
    run = await parts.last_run()
    assert run.state == "failed" and "it was deleted" in run.reason
    found = parts.registry.snapshot.find_adapter(TENANT, ADAPTER)
    assert (list(found.versions) if found else None) == ([2] if again else None)
    assert await parts.runs.active(TENANT, ADAPTER) is None
    assert len(await parts.runs.page(TENANT, None, 10)) == 1


async def test_a_run_that_an_older_release_began_does_not_bring_it_back(parts: Learning) -> None:
    run = await waiting(parts)
    lease = await parts.runs.lease(TENANT, ADAPTER, 30)
    assert lease is not None
    await parts.runs.save(lease, run.model_copy(update={"adapter_created": None}))
    await parts.runs.renew(lease, 0)
    await delete(parts, again=False)
    await parts.runs.decide(run, approved=True)
    await parts.worker().look()
    assert (await parts.last_run()).state == "failed"
    assert parts.registry.snapshot.find_adapter(TENANT, ADAPTER) is None


async def test_what_learning_leaves_goes_with_the_adapter(parts: Learning) -> None:
    service = LearningService(parts.registry, parts.store, parts.policies, parts.runs)
    run = await waiting(parts)
    await parts.policies.set("other", ADAPTER, POLICY)
    await parts.policies.set(TENANT, "tone", POLICY)
    await parts.give(2)
    await service.forget_adapter(TENANT, ADAPTER)
    await parts.registry.delete_adapter(TENANT, ADAPTER)
    assert await parts.store.waiting(TENANT, ADAPTER) == (0, None)
    await parts.worker().look()
    assert (await parts.runs.run(TENANT, run.id)).state == "cancelled"
    assert await parts.runs.open() == set()
    assert set(parts.policies.all()) == {("other", ADAPTER), (TENANT, "tone")}
    await parts.push()
    assert service.keeps(TENANT, f"{ADAPTER}@v2") is None


async def test_a_canary_can_be_cancelled(parts: Learning) -> None:
    await parts.policies.set(TENANT, ADAPTER, POLICY.model_copy(update={"canary_share": 0.5}))
    await parts.give(24)
    worker = parts.worker()
    await worker.look()
    run = await parts.last_run()
    assert run.state == "canary"
    await delete(parts, again=False)
    await parts.runs.cancel(run)
    await worker.look()
    assert (await parts.last_run()).state == "cancelled"
