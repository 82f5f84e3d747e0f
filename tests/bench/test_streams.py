"""Gaps belong to the phase in which their token came."""

import statistics

import pytest

from tests.bench.streams import Gaps


def test_a_gap_belongs_to_the_phase_in_which_its_token_came() -> None:
    gaps = Gaps(phases=[(10.0, "quiet"), (20.0, "busy"), (30.0, "quiet")])
    gaps.assign([(9.0, 0.5), (10.0, 0.1), (19.9, 0.2), (20.0, 0.9), (31.0, 0.3)])
    assert gaps.seconds == {"quiet": [0.1, 0.2, 0.3], "busy": [0.9]}


def test_percentiles_are_those_of_the_standard_library() -> None:
    seconds = [number / 1000 for number in range(1, 1001)]
    gaps = Gaps(seconds={"quiet": seconds})
    hundredths = statistics.quantiles(seconds, n=100, method="inclusive")
    for percent in (50, 99):
        assert gaps.percentile("quiet", percent) == pytest.approx(hundredths[percent - 1])
    assert "p99  990.0 ms" in gaps.line("polyad", "quiet")
