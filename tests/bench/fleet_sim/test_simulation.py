"""The simulator against queueing theory, which it does not know; and what its policies promise."""

import math
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.bench.fleet_sim.plot import bars
from tests.bench.fleet_sim.policies import POLICIES, AdapterAffine, BoundedHash, LeastLoaded, Random
from tests.bench.fleet_sim.replica import Replica, Request, Size, Times
from tests.bench.fleet_sim.simulation import Load, simulate

# Tokens so many and so short that a geometric number of them is an exponential time of one second.
MARKOV = Times(load_s=0, prefill_s=0, token_s=0.001, tokens=1000)


def erlang_c(servers: int, share: float) -> float:
    """Mean wait in M/M/c, in units of the service time (Erlang, 1917)."""
    offered = servers * share
    last = offered**servers / math.factorial(servers) / (1 - share)
    delayed = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    return delayed / (servers * (1 - share))


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize(("seats", "share"), [(1, 0.5), (4, 0.7), (16, 0.85)])
def test_one_server_waits_as_erlang_says(seats: int, share: float, stepped: bool) -> None:
    """Also with steps that are all the same."""
    load = Load(adapters=1, exponent=1, share=share, requests=60_000)
    times = replace(MARKOV, step_s=(MARKOV.token_s,) * seats) if stepped else MARKOV
    waits = [simulate(1, Size(seats, 1, 1), times, load, Random, seed).first_token_s.mean() for seed in range(3)]
    assert np.mean(waits) == pytest.approx(erlang_c(seats, share), rel=0.08)


def test_host_memory_misses_as_che_says() -> None:
    """An LRU's misses under Zipf, by Che, Tung and Wang's approximation (IEEE JSAC 20, 2002)."""
    adapters, host, exponent = 500, 100, 0.9
    weights = np.arange(1, adapters + 1) ** -exponent
    weights /= weights.sum()
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - np.exp(-weights * middle)).sum() < host else (low, middle)
    expected = float((weights * np.exp(-weights * low)).sum())
    load = Load(adapters, exponent, share=0.05, requests=40_000)
    measured = simulate(1, Size(64, 64, host), Times(0, 0, 1e-6, 1), load, Random).loads_per_request
    assert measured == pytest.approx(expected, rel=0.05)


def test_a_missing_slot_is_passed_by_and_a_load_is_shared() -> None:
    server = Replica(Size(seats=3, slots=1, host=8))
    first, other, same = Request(0, 1, 1), Request(0, 2, 1), Request(0, 1, 1)
    assert server.arrive(first) == (True, [])
    assert server.arrive(same) == (False, [])
    assert server.loaded(1) == [first, same]
    assert server.arrive(other) == (True, [])
    assert server.loaded(2) == []
    late = Request(0, 1, 1)
    assert server.arrive(late) == (False, [late])
    assert [server.finish(one) for one in (first, same, late)] == [[], [], [other]]


def test_host_memory_forgets_the_oldest_that_nobody_uses() -> None:
    server = Replica(Size(seats=8, slots=8, host=2))
    running = Request(0, 1, 1)
    server.arrive(running)
    server.loaded(1)
    for adapter in (2, 3):
        request = Request(0, adapter, 1)
        server.arrive(request)
        server.loaded(adapter)
        server.finish(request)
    assert list(server.held) == [1, 3]
    server.arrive(Request(0, 4, 1))
    server.loaded(4)
    assert list(server.held) == [1, 4]
    assert server.evicted == [2, 3]


def test_least_loaded_and_bounded_hash_keep_to_their_bounds() -> None:
    outstanding = np.array([3, 1, 2, 1])
    assert {LeastLoaded(4, seed).pick(0, outstanding) for seed in range(20)} == {1, 3}
    ring = BoundedHash(4, 0)
    for adapter in range(200):
        chosen = ring.pick(adapter, outstanding)
        assert outstanding[chosen] < math.ceil(1.25 * 8 / 4)
    idle = np.zeros(4, dtype=np.int64)
    assert {ring.pick(adapter, idle) for adapter in range(200)} == {0, 1, 2, 3}
    assert all(ring.pick(adapter, idle) == BoundedHash(4, 0).pick(adapter, idle) for adapter in range(50))


def test_hashing_moves_few_adapters_when_a_server_comes() -> None:
    before, after = BoundedHash(20, 7), BoundedHash(21, 7)
    idle = [np.zeros(count, dtype=np.int64) for count in (20, 21)]
    moved = sum(before.pick(adapter, idle[0]) != after.pick(adapter, idle[1]) for adapter in range(2000))
    assert moved < 2000 * 3 / 21


def test_affine_goes_where_the_adapter_is_until_that_is_full() -> None:
    policy = AdapterAffine(3, 0)
    policy.held(5, 2)
    assert policy.pick(5, np.array([0, 0, 1])) == 2
    assert policy.pick(5, np.array([0, 1, 9])) == 0
    policy.dropped(5, 2)
    assert policy.pick(5, np.array([0, 1, 1])) == 0


def test_policies_that_know_adapters_load_less() -> None:
    load = Load(adapters=400, exponent=0.9, share=0.5, requests=6000)
    loads = {
        name: simulate(10, Size(16, 8, 32), Times(0.2, 0.05, 0.035, 32), load, policy).loads_per_request
        for name, policy in POLICIES.items()
    }
    assert list(loads) == sorted(loads, key=lambda name: name not in ("random", "least loaded"))
    assert max(loads["adapter-affine"], loads["bounded hash"]) < 0.6 * min(loads["random"], loads["least loaded"])


def test_the_plot_is_svg_with_a_bar_for_each_value() -> None:
    svg = ElementTree.fromstring(bars({"a < b": {"x": [1, 2], "y": [3, 0]}}, ["10", "100"]))  # noqa: S314
    rectangles = [node for node in svg.iter() if node.tag.endswith("rect")]
    assert len(rectangles) == 1 + 2 + 4
    heights = [float(node.attrib["height"]) for node in rectangles[3:]]
    assert heights[0] * 3 == pytest.approx(heights[1], abs=0.3)
    assert all(one != two for one, two in pairwise(heights))
