"""How long an adapter rests after a run that came to nothing, and when its events are given up."""

import dataclasses
from typing import Any

import pytest
import torch

from polyad.adapters_store.delta import Delta, ModuleDelta
from polyad.adapters_store.feedback import Policy
from polyad.serve.learn.worker.publication import Publication
from tests.fixtures.learning import ADAPTER, POLICY, TENANT, Learning
from tests.fixtures.tiny_chat import lora

pytestmark = pytest.mark.filterwarnings("ignore")


async def set_policy(parts: Learning, **changes: Any) -> Policy:
    policy = POLICY.model_copy(update=changes)
    await parts.policies.set(TENANT, ADAPTER, policy)
    return policy


async def cannot_go_on(parts: Learning) -> None:
    """Make `production` a version that no training goes on from, with feedback for a run."""
    bias = Delta({**lora().modules, "model.layers.0.mlp.up_proj": ModuleDelta(bias=torch.ones(48))})
    version = await parts.push(bias)
    await parts.registry.set_alias(TENANT, ADAPTER, "production", version.number)
    await parts.give(3)


async def test_all_workers_rest_after_a_failure(parts: Learning) -> None:
    await set_policy(parts, retry_s=1000.0)
    await cannot_go_on(parts)
    assert [await parts.worker().look() for _ in range(3)] == [1, 0, 0]


async def test_a_cancelled_run_rests_until_somebody_asks(parts: Learning) -> None:
    await set_policy(parts, retry_s=1000.0, mode="ask")
    await parts.give(24)
    worker = parts.worker()
    await worker.look()
    await parts.runs.cancel(await parts.last_run())
    await worker.look()
    assert (await parts.last_run()).state == "cancelled"
    assert [await worker.look(), await parts.worker().look()] == [0, 0]
    await parts.runs.begin(TENANT, ADAPTER, "demand")
    await parts.worker().look()
    assert (await parts.last_run()).state == "waiting"


@pytest.mark.parametrize("settings", [POLICY.settings, {"nonsense": 1}], ids=["no LoRA", "unknown settings"])
async def test_what_fails_before_training_is_given_up(parts: Learning, settings: dict[str, Any]) -> None:
    await set_policy(parts, settings=settings)
    await cannot_go_on(parts)
    worker = parts.worker()
    assert [await worker.look() for _ in range(4)] == [1, 1, 1, 0]
    runs = await parts.runs.page(TENANT, None, 10)
    assert [(run.state, len(run.entries)) for run in runs] == [("failed", 3)] * 3
    assert [one["reason"] for one in await parts.store.dead_letters(TENANT, ADAPTER)] == [runs[0].reason] * 3


async def test_a_worker_with_another_base_model_begins_nothing(parts: Learning) -> None:
    await parts.give(24)
    other = dataclasses.replace(parts, base=dataclasses.replace(parts.base, fingerprint="0" * 64))
    assert await other.worker().look() == 0
    assert await parts.runs.page(TENANT, None, 10) == []


async def test_a_run_that_breaks_off_is_left_alone_by_all_workers(
    parts: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_policy(parts, mode="ask")
    await parts.give(24)
    await parts.worker().look()
    await parts.runs.decide(await parts.last_run(), approved=True)

    async def broken(self: Publication, *arguments: Any, **options: Any) -> None:
        raise RuntimeError("a defect")

    with monkeypatch.context() as context:
        context.setattr(Publication, "register", broken)
        assert await parts.worker().look() == 1
    assert await parts.worker().look() == 0
    assert (await parts.last_run()).state == "waiting"
