from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from polyad.adapters_store.feedback import Policy, Run, Trigger
from polyad.adapters_store.feedback.records import Mode, State
from polyad.serve.learn.worker.timing import due, rest_s

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()
HOUR = 3600.0


@pytest.mark.parametrize(
    ("count", "age", "trigger"),
    [(0, None, None), (9, 10.0, None), (10, 10.0, "count"), (1, HOUR, "age"), (1, HOUR - 1, None)],
)
def test_many_events_begin_a_run_or_an_old_one(count: int, age: float | None, trigger: Trigger | None) -> None:
    policy = Policy(mode="automatic", min_events=10, max_age_s=HOUR)
    assert due(policy, count, None if age is None else NOON - age, NOON) == trigger


@pytest.mark.parametrize(
    ("oldest", "trigger"),
    # Half past eleven was the last time, and half past twelve is the next.
    [(NOON - HOUR, "schedule"), (NOON - HOUR / 4, None), (None, None)],
)
def test_a_schedule_begins_what_waited_before_its_time(oldest: float | None, trigger: Trigger | None) -> None:
    policy = Policy(mode="automatic", min_events=1, max_age_s=1, schedule="30 * * * *")
    assert due(policy, 100, oldest, NOON) == trigger


def test_a_schedule_is_in_utc_and_checked() -> None:
    nightly = Policy(mode="automatic", schedule="30 2 * * *")
    assert due(nightly, 1, NOON - 9 * HOUR - 1800, NOON) is None
    assert due(nightly, 1, NOON - 9 * HOUR - 1801, NOON) == "schedule"
    with pytest.raises(ValidationError, match="cron"):
        Policy(mode="automatic", schedule="every night")


@pytest.mark.parametrize(
    ("state", "mode", "trigger", "rest"),
    [
        ("failed", "automatic", "count", 600.0),
        ("empty", "automatic", "age", 600.0),
        ("cancelled", "ask", "demand", 600.0),
        ("failed", "automatic", "schedule", HOUR / 2),
        ("published", "automatic", "count", 0.0),
        ("rejected", "automatic", "count", 0.0),
        # As when the adapter was deleted: the next one of its name has nothing to rest from.
        ("cancelled", "off", "count", 0.0),
    ],
)
def test_what_comes_to_nothing_rests(state: State, mode: Mode, trigger: Trigger, rest: float) -> None:
    policy = Policy(mode=mode, schedule="30 * * * *" if trigger == "schedule" else None)
    run = Run(id="run-1", tenant="public", adapter="a", trigger=trigger, state=state, created=NOON, changed=NOON)
    assert rest_s(policy, run, NOON) == rest
