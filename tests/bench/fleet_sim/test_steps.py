"""Steps that are longer the more requests are in them: by hand, and against a queue whose server is shared."""

import numpy as np
import pytest

from tests.bench.fleet_sim.policies import Random
from tests.bench.fleet_sim.replica import Request, Size, Times
from tests.bench.fleet_sim.simulation import Load, replay, simulate
from tests.bench.fleet_sim.steps import Steps

# One request makes a token a second, two make one in three; a prompt takes half a second.
TIMES = Times(load_s=10, prefill_s=0.5, token_s=0, tokens=1, step_s=(1.0, 3.0))


def test_a_request_joins_when_a_step_ends_and_makes_the_next_longer() -> None:
    steps = Steps(TIMES)
    long, short = Request(0.0, 0, 0, tokens=4), Request(2.0, 0, 0, tokens=1)
    plan = steps.join(0.0, [long])
    assert plan is not None and plan.end == 1.5
    assert steps.finish() == ([long], [])
    plan = steps.join(1.5, [])
    assert plan is not None and plan.end == 4.5
    plan = steps.join(2.0, [short])
    assert plan is not None and plan.end == 2.5
    assert steps.finish() == ([], [])
    plan = steps.join(2.5, [])
    assert plan is not None and plan.end == 6.0
    assert steps.finish() == ([short], [short])
    plan = steps.join(6.0, [])
    assert plan is not None and plan.end == 7.0
    assert steps.finish() == ([], [long])
    assert steps.join(7.0, []) is None


def test_a_join_in_the_last_planned_step_changes_nothing() -> None:
    steps = Steps(TIMES)
    steps.join(0.0, [Request(0.0, 0, 0, tokens=4)])
    steps.finish()
    plan = steps.join(1.5, [])
    assert steps.join(4.0, [Request(4.0, 0, 0)]) is plan


def test_two_that_end_together_let_two_begin_together() -> None:
    # The first two run from 10 s, when their version is loaded, and have their only token at 14 s; the others at 18 s.
    requests = [Request(float(at), 0, 0) for at in range(4)]
    outcome = replay(1, Size(seats=2, slots=1, host=1), TIMES, requests, Random(1, 0))
    assert outcome.first_token_s.tolist() == [13.0, 16.0, 15.0]


def test_one_version_is_loaded_after_another() -> None:
    requests = [Request(0.0, adapter, 0) for adapter in range(3)]
    outcome = replay(1, Size(seats=2, slots=2, host=3), TIMES, requests, Random(1, 0))
    assert outcome.first_token_s.tolist() == [11.5, 21.5, 31.5]


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_a_shared_server_has_as_many_requests_as_theory_says(share: float) -> None:
    """In M/M/1 with processor sharing a request meets share / (1 - share) others (Kleinrock, 1967), whose step it waits
    for, on the average half of it, before its own."""
    token_s, seats = 0.001, 64
    times = Times(0, 0, 0, tokens=1000, step_s=tuple(token_s * number for number in range(1, seats + 1)))
    load = Load(adapters=1, exponent=1, share=share, requests=40_000)
    found = [simulate(1, Size(seats, 1, 1), times, load, Random, seed).first_token_s.mean() for seed in range(3)]
    others = share / (1 - share)
    assert np.mean(found) == pytest.approx(token_s * (others / 2 + others + 1), rel=0.06)
