"""Runs from feedback to a version, or to a reason: on a tiny model, over a real Redis."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from polyad.adapters_store.ending import end
from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.feedback import Policy
from polyad.adapters_store.registry import EmbeddedRedis
from polyad.serve.learn.train import Trainer
from polyad.serve.learn.worker.workshop import Bench
from tests.fixtures.learning import ADAPTER, POLICY, SETTINGS, TENANT, Learning
from tests.fixtures.tiny_chat import lora

LEASE_S = 2.0

pytestmark = pytest.mark.filterwarnings("ignore")


def policy(**changes: Any) -> Policy:
    return POLICY.model_copy(update=changes)


async def test_edits_become_a_better_version(parts: Learning) -> None:
    given = await parts.give(24)
    await parts.worker().look()
    run = await parts.last_run()
    assert (run.state, run.passed) == ("published", True), run.reason
    adapter = parts.registry.snapshot.adapter(TENANT, ADAPTER)
    assert adapter.aliases == {"production": 2, "previous": 1}
    version = adapter.versions[2]
    assert (version.run, version.data, version.digest) == (run.id, run.dataset["digest"], run.candidate)
    assert version.parents == (adapter.versions[1].digest,)
    assert [state for _, state in run.history] == ["queued", "collecting", "training", "gating", "published"]
    assert run.curve[-1][1] < run.curve[0][1] and run.step == run.steps
    decisions = await parts.runs.decisions(run)
    assert {one["event"] for one in decisions} == set(given)
    assert await parts.store.waiting(TENANT, ADAPTER) == (0, None)
    memory = await parts.store.memory(TENANT, ADAPTER)
    assert len(memory) == sum(run.dataset[kind] for kind in ("sft", "dpo", "kto", "held_out"))


async def test_the_next_run_goes_on_and_replays(parts: Learning) -> None:
    worker = parts.worker()
    await parts.give(24)
    await worker.look()
    await parts.give(24, version=2, correction="No, never.")
    await worker.look()
    run = await parts.last_run()
    assert run.parent == 2 and run.dataset["replay"] > 0
    assert run.state in ("published", "rejected")


async def test_what_is_not_better_is_turned_down_and_kept_for_looking_at(
    parts: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parts.give(24)
    settings = {**SETTINGS, "train": {**SETTINGS["train"], "learning_rate": 1e-20}, "gate": {"confidence": 0.999}}
    settings["gate"]["min_held_out"] = 2
    await parts.policies.set(TENANT, ADAPTER, policy(settings=settings))
    await parts.worker().look()
    run = await parts.last_run()
    assert run.state == "rejected" and "held_out" in run.reason, run.reason
    adapter = parts.registry.snapshot.adapter(TENANT, ADAPTER)
    assert adapter.aliases == {"production": 1} and adapter.versions[2].quarantined
    assert await parts.store.memory(TENANT, ADAPTER) == {}
    assert (await parts.store.waiting(TENANT, ADAPTER))[0] == 0


async def test_a_person_is_asked(parts: Learning) -> None:
    await parts.policies.set(TENANT, ADAPTER, policy(mode="ask"))
    await parts.give(24)
    worker = parts.worker()
    await worker.look()
    run = await parts.last_run()
    assert run.state == "waiting"
    await worker.look()
    assert (await parts.last_run()).state == "waiting"
    await parts.runs.decide(run, approved=True)
    await worker.look()
    assert (await parts.last_run()).state == "published"
    assert parts.registry.snapshot.resolve(TENANT, ADAPTER).number == 2


@pytest.mark.parametrize(("thumb", "state"), [("up", "published"), ("down", "rejected")])
async def test_a_canary_is_judged_by_live_feedback(parts: Learning, thumb: str, state: str) -> None:
    await parts.policies.set(TENANT, ADAPTER, policy(canary_share=0.5, canary_events=10))
    await parts.give(24)
    worker = parts.worker()
    await worker.look()
    assert (await parts.last_run()).state == "canary"
    assert parts.registry.snapshot.adapter(TENANT, ADAPTER).aliases == {"production": 1, "canary": 2}
    await parts.give(10, version=1, thumb="up")
    await parts.give(10, version=2, thumb=thumb)
    await worker.look()
    runs = await parts.runs.page(TENANT, None, 10)
    assert runs[-1].state == state, runs[-1].reason
    production = 2 if thumb == "up" else 1
    aliases = parts.registry.snapshot.adapter(TENANT, ADAPTER).aliases
    assert aliases["production"] == production and "canary" not in aliases


async def test_too_little_feedback_stays_in_the_queue(parts: Learning) -> None:
    await parts.give(2)
    await parts.worker().look()
    run = await parts.last_run()
    assert run.state == "empty" and "are needed" in run.reason
    assert (await parts.store.waiting(TENANT, ADAPTER))[0] == 2


async def test_poison_goes_to_the_dead_letters(parts: Learning) -> None:
    await parts.give(24)
    await parts.give(1, preferred=0)
    await parts.store.forget_user(TENANT, "user-1", [])
    await parts.worker().look()
    dead = await parts.store.dead_letters(TENANT, ADAPTER)
    assert [one["reason"] for one in dead] == ["its interaction is no longer kept"]
    assert (await parts.last_run()).events["poison"] == 1


@dataclass
class Steps:
    """Steps of a training that is slowed down."""

    begun: asyncio.Event
    count: int = 0


@pytest.fixture
async def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    found, loop, step = Steps(asyncio.Event()), asyncio.get_running_loop(), Trainer._step

    def slow(self: Trainer, *arguments: Any) -> float:
        found.count += 1
        loop.call_soon_threadsafe(found.begun.set)
        time.sleep(0.1)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", slow)
    return found


async def test_a_run_can_be_cancelled_while_it_trains(parts: Learning, steps: Steps) -> None:
    await parts.give(24)
    task = asyncio.create_task(parts.worker(lease_s=1.0).look())
    await steps.begun.wait()
    await parts.runs.cancel(await parts.last_run())
    await task
    run = await parts.last_run()
    assert run.state == "cancelled"
    assert (await parts.store.waiting(TENANT, ADAPTER))[0] == 24
    assert list(parts.registry.snapshot.adapter(TENANT, ADAPTER).versions) == [1]


async def test_a_worker_that_is_told_to_end_does_and_another_goes_on(parts: Learning, steps: Steps) -> None:
    await parts.give(24)
    task = asyncio.create_task(parts.worker().look())
    await steps.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    trained = steps.count
    await asyncio.sleep(0.7)
    assert steps.count == trained
    run = await parts.last_run()
    assert (run.state, run.attempts) == ("training", 0)
    await parts.worker().look()
    assert (await parts.last_run()).state == "published"


async def test_a_training_that_fails_says_why_and_frees_the_events(parts: Learning) -> None:
    version = await parts.push(lora(size=1e20))  # dW overflows float32
    await parts.registry.set_alias(TENANT, ADAPTER, "production", version.number)
    await parts.policies.set(TENANT, ADAPTER, policy(retry_s=1000.0))
    await parts.give(24)
    worker = parts.worker()
    await worker.look()
    run = await parts.last_run()
    assert run.state == "failed"
    assert "TrainingFailed" in run.reason
    assert (await parts.store.waiting(TENANT, ADAPTER))[0] == 24
    assert await worker.look() == 0, "it tried again without a pause"


async def test_other_kinds_cannot_go_on(parts: Learning) -> None:
    import torch

    from polyad.adapters_store.delta import Delta, ModuleDelta

    bias = Delta({**lora().modules, "model.layers.0.mlp.up_proj": ModuleDelta(bias=torch.ones(48))})
    version = await parts.push(bias)
    await parts.registry.set_alias(TENANT, ADAPTER, "production", version.number)
    await parts.give(24)
    await parts.worker().look()
    run = await parts.last_run()
    assert run.state == "failed" and "training goes on from LoRA" in run.reason


async def test_a_promotion_by_somebody_else_wins(parts: Learning, monkeypatch: pytest.MonkeyPatch) -> None:
    await parts.give(24)
    other = await parts.push(lora(seed=5, size=0.1))
    loop = asyncio.get_running_loop()
    judge: Callable[..., Any] = Bench.judge

    def meanwhile(self: Bench, *arguments: Any) -> Any:
        moved = parts.registry.set_alias(TENANT, ADAPTER, "production", other.number)
        asyncio.run_coroutine_threadsafe(moved, loop).result(10)
        return judge(self, *arguments)

    monkeypatch.setattr(Bench, "judge", meanwhile)
    await parts.worker().look()
    run = await parts.last_run()
    assert run.state == "failed" and "somebody else" in run.reason
    assert parts.registry.snapshot.resolve(TENANT, ADAPTER).number == other.number


async def test_two_workers_never_train_one_adapter_at_once(parts: Learning, monkeypatch: pytest.MonkeyPatch) -> None:
    await parts.give(24)
    at_work, most = 0, 0
    train = Bench.train

    def counted(self: Bench, *arguments: Any) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        try:
            return train(self, *arguments)
        finally:
            at_work -= 1

    monkeypatch.setattr(Bench, "train", counted)
    await asyncio.gather(parts.worker().look(), parts.worker().look())
    assert most == 1 and len(await parts.runs.page(TENANT, None, 10)) == 1


@pytest.mark.parametrize("away", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent for four leases"])
async def test_redis_away_while_training_loses_nothing(
    parts: Learning, redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, away: signal.Signals
) -> None:
    await parts.give(24)
    gone: list[int] = []
    step = Trainer._step

    def go_once(self: Trainer, *arguments: Any) -> float:
        if not gone and redis.pid is not None:
            gone.append(redis.pid)
            os.kill(redis.pid, away)
            threading.Timer(4 * LEASE_S, _wake, (redis.pid,)).start()
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", go_once)
    task = asyncio.create_task(parts.worker(lease_s=LEASE_S, poll_s=0.05).work())
    try:
        for _ in range(600):
            if await _published(parts):
                break
            await asyncio.sleep(0.1)
    finally:
        await end(task)
    assert gone and (await parts.store.waiting(TENANT, ADAPTER))[0] == 0
    assert json.loads(json.dumps((await parts.last_run()).events))["taken"] == 24


def _wake(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGCONT)


async def _published(parts: Learning) -> bool:
    try:
        runs = await parts.runs.page(TENANT, None, 10)
    except RegistryUnavailable:
        return False
    return any(run.state == "published" for run in runs)
