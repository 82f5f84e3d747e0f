"""What the comparison of simulated and measured figures computes of them."""

import numpy as np
import pytest

from tests.bench.bench_fleet_measured import Answer, mean_running, rate_at, report
from tests.bench.fleet_sim.replica import Times
from tests.bench.fleet_sim.simulation import Outcome


def test_as_many_run_as_little_says() -> None:
    """Where a step takes the same with any number, requests of 1.1 s that come twice a second are 2.2 at a time."""
    flat = Times(0, 0.1, 0, tokens=10, step_s=(0.1,) * 16)
    assert mean_running(flat, 2.0) == pytest.approx(2.2)
    assert mean_running(flat, 0.1) == 1.0
    # n = 0.5 * (1.1 + 10 * 0.1 * n), with steps of 0.1 s for each request.
    shared = Times(0, 1.1, 0, tokens=10, step_s=tuple(0.1 * number for number in range(1, 17)))
    assert mean_running(shared, 0.5) == pytest.approx(1.1)


def test_the_rate_is_a_share_of_what_a_full_batch_answers() -> None:
    assert rate_at(Times(0, 0, 0, tokens=10, step_s=(0.05,) * 15 + (0.2,))) == pytest.approx(0.5 * 16 / 2.0)


def test_ratios_are_simulated_by_measured(capsys: pytest.CaptureFixture[str]) -> None:
    measured, half = Outcome(np.array([0.2, 0.4]), 0.5), Outcome(np.array([0.1, 0.2]), 0.25)
    result = report(Answer(measured, half, measured))
    assert result["first_token_p50_s"] == pytest.approx(0.3)
    assert result["loads_per_100"] == 50
    assert {key: round(value, 6) for key, value in result.items() if key.endswith("_ratio_by_steps")} == {
        "first_token_p50_s_ratio_by_steps": 0.5,
        "first_token_p95_s_ratio_by_steps": 0.5,
        "first_token_p99_s_ratio_by_steps": 0.5,
        "loads_per_100_ratio_by_steps": 0.5,
    }
    assert result["loads_per_100_ratio_by_token"] == 1
    assert "| measured | 0.300 s |" in capsys.readouterr().out
