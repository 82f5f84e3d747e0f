import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from polyad.adapters_store.errors import Conflict, ResponseExpired, UnknownResponse, UnknownRun
from polyad.adapters_store.feedback import (
    Answer,
    Ending,
    Feedback,
    FeedbackStore,
    Fenced,
    Interaction,
    Message,
    Policies,
    Policy,
    Runs,
)
from polyad.adapters_store.registry import EmbeddedRedis

TENANT = "public"
POLICY = Policy(mode="automatic", keep_s=60)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def store(redis: EmbeddedRedis) -> AsyncIterator[FeedbackStore]:
    store = FeedbackStore(redis.url)
    yield store
    await store.close()


@pytest.fixture
async def runs(redis: EmbeddedRedis) -> AsyncIterator[Runs]:
    runs = Runs(redis.url)
    yield runs
    await runs.close()


def interaction(id: str, keep_s: float = 60, **changes: Any) -> Interaction:
    now = time.time()
    fields: dict[str, Any] = {
        "tenant": TENANT,
        "adapter": "support",
        "version": 1,
        "prompt": (Message(role="user", content="Where is it?"),),
        "answers": (Answer(text="There.", ended=True),),
        "created": now,
        "expires": now + keep_s,
    }
    return Interaction(id=id, **{**fields, **changes})


async def give(store: FeedbackStore, count: int, user: str | None = None) -> list[str]:
    names = []
    for _ in range(count):
        number = sum(ord(c) for c in user or "") * 1000 + len(names) + int(time.time_ns() % 10**9) * 10**6
        kept = interaction(f"response-{number}", user=user)
        await store.keep(kept)
        assert await store.give(kept, Feedback(id=f"event-{number}", response=kept.id, thumb="up"), POLICY)
        names.append(f"event-{number}")
    return names


async def test_an_interaction_comes_back_as_it_was(store: FeedbackStore) -> None:
    kept = interaction("a", user="ann", sampling={"temperature": 0.5})
    await store.keep(kept)
    assert await store.interaction(TENANT, "a") == kept


async def test_another_tenant_cannot_find_it(store: FeedbackStore) -> None:
    await store.keep(interaction("a"))
    with pytest.raises(UnknownResponse, match="'a' is no response"):
        await store.interaction("other", "a")


async def test_after_its_time_it_is_gone_and_the_error_says_so(store: FeedbackStore) -> None:
    kept = interaction("a", keep_s=1)
    await store.keep(kept)
    await asyncio.sleep(1.2)
    with pytest.raises(ResponseExpired, match="was kept until"):
        await store.interaction(TENANT, "a")
    with pytest.raises(ResponseExpired):
        await store.give(kept, Feedback(id="e", response="a", thumb="up"), POLICY)


async def test_the_same_feedback_counts_once(store: FeedbackStore) -> None:
    kept = interaction("a")
    await store.keep(kept)
    feedback = Feedback(id="e", response="a", thumb="up", created=1.0)
    assert await store.give(kept, feedback, POLICY)
    assert not await store.give(kept, feedback.model_copy(update={"created": 2.0}), POLICY)
    assert (await store.waiting(TENANT, "support"))[0] == 1
    assert (await store.scores(TENANT, "support"))[1].up == 1


async def test_an_id_for_other_feedback_is_refused(store: FeedbackStore) -> None:
    kept = interaction("a")
    await store.keep(kept)
    await store.give(kept, Feedback(id="e", response="a", thumb="up"), POLICY)
    with pytest.raises(Conflict, match="is the id of other feedback"):
        await store.give(kept, Feedback(id="e", response="a", thumb="down"), POLICY)


async def test_collected_events_stay_until_a_run_ends(store: FeedbackStore, runs: Runs) -> None:
    names = await give(store, 7)
    run = await runs.begin(TENANT, "support", "demand")
    lease = await runs.lease(TENANT, "support", 30)
    assert lease is not None
    first = await store.collect(TENANT, "support", 5)
    assert [one.feedback.id for one in first] == names[:5]
    again = await store.collect(TENANT, "support", 100)
    assert [one.feedback.id for one in again] == names
    over = run.model_copy(update={"state": "published"})
    poison = [(again[1].entry, "it is broken")]
    ending = Ending(used=[again[0].entry], poison=poison, remember=[("x", '{"users": ["ann"]}')])
    await runs.save(lease, over, ending)
    left = await store.collect(TENANT, "support", 100)
    assert [one.feedback.id for one in left] == names[2:]
    dead = await store.dead_letters(TENANT, "support")
    assert [(one["entry"], one["reason"]) for one in dead] == poison
    assert await store.memory(TENANT, "support") == {"x": '{"users": ["ann"]}'}
    assert await runs.active(TENANT, "support") is None


async def test_events_of_failed_runs_are_tried_three_times(store: FeedbackStore, runs: Runs) -> None:
    await give(store, 1)
    for _ in range(3):
        run = await runs.begin(TENANT, "support", "demand")
        lease = await runs.lease(TENANT, "support", 30)
        assert lease is not None
        (event,) = await store.collect(TENANT, "support", 10)
        over = run.model_copy(update={"state": "failed", "reason": "NaN"})
        await runs.save(lease, over, Ending(failed=[event.entry]))
        await runs.renew(lease, 0)
    assert await store.collect(TENANT, "support", 10) == []
    assert [one["reason"] for one in await store.dead_letters(TENANT, "support")] == ["NaN"]


async def test_the_newest_ended_runs_are_kept(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polyad.adapters_store.feedback.runs.MAX_ENDED", 2)

    async def end(adapter: str, **changes: Any) -> str:
        run = await runs.begin(TENANT, adapter, "demand")
        await runs.keep_decisions(run, [{"kept": True}])
        lease = await runs.lease(TENANT, adapter, 30)
        assert lease is not None
        await runs.save(lease, run.model_copy(update=changes), Ending())
        await runs.renew(lease, 0)
        return run.id

    made = await end("support", state="published", version=2)
    other = await end("tone", state="empty")
    ended = [await end("support", state="failed") for _ in range(4)]
    assert [run.id for run in await runs.page(TENANT, None, 10)] == [ended[3], ended[2], other, made]
    with pytest.raises(UnknownRun):
        await runs.run(TENANT, ended[0])
    client = runs._redis.client
    assert len(await client.keys("*:learn:run:*")) == len(await client.keys("*:learn:decisions:*")) == 4


async def test_a_run_that_ends_lets_its_adapter_rest(runs: Runs) -> None:
    run = await runs.begin(TENANT, "support", "demand")
    lease = await runs.lease(TENANT, "support", 30)
    assert lease is not None and not await runs.rests(TENANT, "support")
    await runs.save(lease, run.model_copy(update={"state": "failed"}), Ending(rest_s=0.3))
    assert await runs.rests(TENANT, "support") and not await runs.rests(TENANT, "tone")
    await asyncio.sleep(0.4)
    assert not await runs.rests(TENANT, "support")


async def test_one_open_run_for_each_adapter(runs: Runs) -> None:
    run = await runs.begin(TENANT, "support", "demand")
    with pytest.raises(Conflict, match=run.id):
        await runs.begin(TENANT, "support", "count")
    await runs.begin(TENANT, "tone", "count")


async def test_a_lost_lease_writes_nothing(runs: Runs) -> None:
    run = await runs.begin(TENANT, "support", "demand")
    old = await runs.lease(TENANT, "support", 0.05)
    assert old is not None and await runs.lease(TENANT, "support", 1) is None
    await asyncio.sleep(0.1)
    new = await runs.lease(TENANT, "support", 30)
    assert new is not None and new.token > old.token
    with pytest.raises(Fenced):
        await runs.save(old, run.model_copy(update={"state": "training"}))
    with pytest.raises(Fenced):
        await runs.renew(old, 30)
    await runs.renew(old, 0)
    assert await runs.lease(TENANT, "support", 1) is None, "who lost the lease gave back another's"
    assert (await runs.run(TENANT, run.id)).state == "queued"


async def test_a_user_is_forgotten_everywhere(store: FeedbackStore, runs: Runs) -> None:
    await give(store, 2, "ann")
    kept = await give(store, 1, "bob")
    run = await runs.begin(TENANT, "support", "demand")
    lease = await runs.lease(TENANT, "support", 30)
    assert lease is not None
    remember = [("x", '{"users": ["ann"]}'), ("y", '{"users": ["bob"]}')]
    await runs.save(lease, run.model_copy(update={"state": "empty"}), Ending(remember=remember))
    await store.collect(TENANT, "support", 100)
    forgotten = await store.forget_user(TENANT, "ann", ["support"])
    assert forgotten == {"interactions": 2, "events": 2, "examples": 1}
    assert [one.feedback.id for one in await store.collect(TENANT, "support", 100)] == kept
    assert list(await store.memory(TENANT, "support")) == ["y"]
    assert await store.forget_user(TENANT, "ann", ["support"]) == {"interactions": 0, "events": 0, "examples": 0}


async def test_policies_reach_other_processes(redis: EmbeddedRedis) -> None:
    mine, others = Policies(redis.url), Policies(redis.url, poll_s=0.02)
    await others.start()
    try:
        assert others.get(TENANT, "support").mode == "off"
        await mine.set(TENANT, "support", POLICY)
        for _ in range(200):
            if others.get(TENANT, "support") == POLICY:
                break
            await asyncio.sleep(0.02)
        assert others.get(TENANT, "support") == POLICY
        assert others.adapters(TENANT) == ["support"]
    finally:
        await mine.close()
        await others.close()


async def test_of_one_user_so_many_verdicts_count_until_he_is_forgotten(store: FeedbackStore) -> None:
    policy = POLICY.model_copy(update={"canary_user_cap": 3})

    async def disliked(user: str | None, times: int, version: int = 1) -> int:
        for number in range(times):
            kept = interaction(f"{user}-{version}-{number}-{time.time_ns()}", user=user, version=version)
            await store.keep(kept)
            feedback = Feedback(id=kept.id, response=kept.id, thumb="down", user=user)
            assert await store.give(kept, feedback, policy)
        return (await store.scores(TENANT, "support"))[version].down

    assert await disliked("ann", 5) == 3
    assert await disliked("bob", 1) == 4
    assert await disliked("ann", 5, version=2) == 3
    assert await disliked(None, 5) == 9
    await store.forget_user(TENANT, "ann", ["support"])
    assert await disliked("ann", 1) == 10
