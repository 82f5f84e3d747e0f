"""Who gives way, by its declared rules, for any crowd; and what comes of it on a real scheduler."""

from collections import Counter
from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import given
from vllm.v1.request import Request

from polyad.serve.engine.seat_sharing import Holder, entitlements, who_gives_way
from tests.fixtures.simulation import STEP_S, Simulation

HOLDERS = st.builds(Holder, st.sampled_from("abcd"), st.integers(1, 3), st.floats(0, 100))
WEIGHTS = st.fixed_dictionaries({tenant: st.floats(0.1, 10) for tenant in "abcd"})


@given(WEIGHTS, st.integers(1, 64))
def test_entitlements_are_shares_and_never_none(weights: dict[str, float], seats: int) -> None:
    entitled = entitlements(weights, seats)
    whole = sum(weights.values())
    for tenant, weight in weights.items():
        exact = seats * weight / whole
        assert entitled[tenant] == 1 if exact < 1 else exact - 1 < entitled[tenant] <= exact


@given(st.lists(HOLDERS, max_size=12), WEIGHTS, st.integers(1, 16))
def test_the_last_of_who_is_furthest_beyond_gives_way(
    running: list[Holder], weights: dict[str, float], seats: int
) -> None:
    entitled, held = entitlements(weights, seats), Counter(one.tenant for one in running)
    place = who_gives_way(running, entitled)
    may = [one for one in running if held[one.tenant] - one.seats >= entitled[one.tenant]]
    if place is None:
        assert not may
        return
    victim = running[place]
    assert victim in may
    for one in may:
        further = held[one.tenant] / entitled[one.tenant] > held[victim.tenant] / entitled[victim.tenant]
        assert not further
        assert one.tenant != victim.tenant or one.arrival <= victim.arrival


@given(st.lists(HOLDERS, max_size=30), WEIGHTS, st.integers(1, 16))
def test_nobody_is_brought_below_its_share(running: list[Holder], weights: dict[str, float], seats: int) -> None:
    entitled = entitlements(weights, seats)
    singles = [Holder(one.tenant, 1, one.arrival) for one in running]
    before = Counter(one.tenant for one in singles)
    while (place := who_gives_way(singles, entitled)) is not None:
        del singles[place]
    after = Counter(one.tenant for one in singles)
    assert all(after[tenant] == min(before[tenant], entitled[tenant]) for tenant in before)


def crowd(simulation: Simulation, tenant: str, requests: int, tokens: int = 60) -> list[Request]:
    """Of different lengths, so that they do not all end in one step."""
    return [simulation.add(None, tokens + number % 5, tenant=tenant) for number in range(requests)]


def preemptions(simulation: Simulation) -> int:
    return sum(request.num_preemptions for request in simulation.requests.values())


def test_a_trickle_takes_a_seat_from_a_flood_and_nobody_loses_a_token(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    flood = crowd(simulation, "flood", 20)
    simulation.run(0.3)
    late = simulation.add(None, 4, tenant="small")
    simulation.run_until(lambda: late.request_id in simulation.first_token)
    assert simulation.waited(late) <= 2 * STEP_S
    # the one of the flood that came last of those that ran
    assert [request.num_preemptions for request in flood[:5]] == [0, 0, 0, 1, 0]
    simulation.run_until(lambda: len(simulation.finished) == len(simulation.requests))
    for request in simulation.requests.values():
        assert request.num_output_tokens == request.max_tokens
    assert preemptions(simulation) == 1


def test_two_floods_take_no_seats_from_each_other(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    crowd(simulation, "one", 200)
    simulation.run(0.3)
    crowd(simulation, "two", 200)
    simulation.run(60)
    assert len(simulation.finished) > 150
    assert preemptions(simulation) == 0


def test_who_asks_for_its_share_gets_it_at_once(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    crowd(simulation, "flood", 20)
    simulation.run(0.3)
    late = crowd(simulation, "modest", 2)
    simulation.run(3 * STEP_S)
    assert all(request.request_id in simulation.first_token for request in late)
    assert preemptions(simulation) == 2
    simulation.run_until(lambda: len(simulation.finished) == len(simulation.requests), seconds=600)
    assert preemptions(simulation) == 2


def test_one_tenant_takes_no_seat_from_itself(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    crowd(simulation, "one", 12)
    simulation.run_until(lambda: len(simulation.finished) == len(simulation.requests))
    assert preemptions(simulation) == 0


def test_many_small_tenants_seldom_take_seats(simulate: Callable[..., Simulation]) -> None:
    """Only their last requests ask for no more than their share."""
    simulation = simulate(places=4)
    for number in range(10):
        crowd(simulation, f"tenant-{number}", 2)
    simulation.run_until(lambda: len(simulation.finished) == len(simulation.requests))
    assert preemptions(simulation) <= 10


def test_no_seat_is_taken_for_one_that_would_still_wait_for_a_slot(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(slot_wait_s=1e9, places=4)
    for version in "aabb":
        simulation.add(version, 60, tenant="flood")
    simulation.run(0.2)
    late = simulation.add("c", 4, tenant="small")
    simulation.run(0.4)
    assert late.request_id not in simulation.first_token
    assert preemptions(simulation) == 0


def test_a_flood_sits_out_the_step_in_which_a_trickle_begins(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    crowd(simulation, "flood", 20)
    simulation.run(0.3)
    late = simulation.add(None, 4, tenant="small")
    assert set(simulation.step()) == {late.request_id}
    # and no other step
    assert len(simulation.step()) == 4
    second = simulation.add(None, 4, tenant="small")
    assert set(simulation.step()) == {late.request_id, second.request_id}
    simulation.run_until(lambda: len(simulation.finished) == len(simulation.requests))
    for request in simulation.requests.values():
        assert request.num_output_tokens == request.max_tokens


def test_a_long_prompt_does_not_make_others_sit_out_more_than_a_step(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    crowd(simulation, "flood", 20)
    simulation.run(0.3)
    long = simulation.add(None, 4, prompt=300, tenant="small")
    assert set(simulation.step()) == {long.request_id}
    while long.request_id not in simulation.first_token:
        assert len(simulation.step()) == 4


def test_nobody_sits_out_for_its_own_tenant_or_within_its_share(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    crowd(simulation, "one", 2)
    simulation.step()
    crowd(simulation, "two", 1)
    assert len(simulation.step()) == 3
    simulation.add(None, 4, tenant="one")
    assert len(simulation.step()) == 4


def test_one_that_begins_in_every_step_does_not_stop_a_flood(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    flood = [simulation.add(None, 900, tenant="flood") for _ in range(3)]
    short = [simulation.add(None, 1, tenant="small")]
    for _ in range(900):
        if short[-1].is_finished():
            short.append(simulation.add(None, 1, tenant="small"))
        simulation.step()
    flood_served, short_served = (
        sum(one.num_prompt_tokens + 2 * one.num_output_tokens for one in who) for who in (flood, short)
    )
    assert flood_served > 0.9 * short_served
