"""The scheduler itself, built from the arguments that `polyad serve` makes: who is admitted to slots, and when."""

import random
from collections import Counter
from collections.abc import Callable

import pytest

from tests.fixtures.simulation import SLOT_WAIT_S, SLOTS, STEP_S, Simulation, letters

NEVER_S = 1e9


def keep_busy(simulation: Simulation, versions: str, each: int, tokens: int) -> Callable[[], None]:
    """One step of versions that always have `each` requests."""

    def step() -> None:
        alive = Counter(letters(request) for request in simulation.requests.values() if not request.is_finished())
        for version in versions:
            for _ in range(each - alive[version]):
                # Not all of one length, or all would end in one step and free the slot by themselves.
                simulation.add(version, tokens + len(simulation.requests) % 7)
        simulation.step()

    return step


def test_cold_version_gets_a_slot_between_two_hot_ones(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate()
    step = keep_busy(simulation, "ab", each=3, tokens=50)
    for _ in range(100):
        step()
    cold = simulation.add("c", 5)
    longest_request_s = 60 * STEP_S
    while cold.request_id not in simulation.first_token:
        assert simulation.now - cold.arrival_time < SLOT_WAIT_S + longest_request_s
        step()
    assert simulation.waited(cold) >= SLOT_WAIT_S
    for _ in range(300):
        step()
    hot = [r for r in simulation.requests.values() if r is not cold and r.request_id in simulation.finished]
    assert max(simulation.waited(request) for request in hot) < 2 * (SLOT_WAIT_S + longest_request_s)


def test_without_ageing_the_cold_version_would_wait_for_ever(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(slot_wait_s=NEVER_S)
    step = keep_busy(simulation, "ab", each=3, tokens=50)
    step()
    cold = simulation.add("c", 5)
    for _ in range(2000):
        step()
    assert cold.request_id not in simulation.first_token
    assert simulation.running.keys() == {"a", "b"}


def test_only_those_behind_it_are_held_by_the_closed_version(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=3)
    last = simulation.add("a", 200)
    for tokens in (60, 400):
        simulation.add("b", tokens)
    simulation.step()
    starved = simulation.add("c", 5)
    simulation.run(SLOT_WAIT_S + STEP_S)
    assert simulation.closed == {"a"}
    held, other, base = simulation.add("a", 5), simulation.add("b", 5), simulation.add(None, 5)
    simulation.run_until(lambda: held.request_id in simulation.finished)
    first = simulation.first_token
    for free in (other, base):
        assert first[free.request_id] < simulation.finished[last.request_id] < first[starved.request_id]
    assert first[starved.request_id] < first[held.request_id]


def test_a_closed_slot_stays_the_closed_one_while_it_drains(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate()
    for _ in range(2):
        simulation.add("a", 200)
    for tokens in (60, 80, 200):
        simulation.add("b", tokens)
    simulation.step()
    starved = simulation.add("c", 5)
    simulation.run(SLOT_WAIT_S + STEP_S)
    assert simulation.closed == {"a"}
    seen = set()
    while starved.request_id not in simulation.first_token:
        simulation.step()
        seen.add(simulation.running["b"])
        if simulation.running["a"] and starved.request_id not in simulation.first_token:
            assert simulation.closed == {"a"}
    assert 1 in seen  # fewer than "a" had, and yet "b" went on as before
    assert simulation.closed == set()  # in the very step that had the free slot


def test_the_least_busy_version_is_closed_and_one_for_each_that_starves(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate()
    for _ in range(3):
        simulation.add("a", 500)
    simulation.add("b", 500)
    simulation.step()
    for _ in range(4):
        simulation.add("c", 5)
    simulation.run(SLOT_WAIT_S + STEP_S)
    assert simulation.closed == {"b"}
    simulation.add("d", 5)
    simulation.run(SLOT_WAIT_S + STEP_S)
    assert simulation.closed == {"a", "b"}


def test_nothing_is_held_while_a_slot_is_free(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate()
    simulation.add("a", 500)
    simulation.step()
    for _ in range(100):
        late = simulation.add("a", 3)
        simulation.step()
        assert simulation.closed == set()
        assert late.request_id in simulation.first_token
    cold = simulation.add("c", 3)
    simulation.step()
    assert cold.request_id in simulation.first_token


def test_nothing_is_held_for_those_who_wait_for_something_else(simulate: Callable[..., Simulation]) -> None:
    """The batch is full: requests of resident versions and of the base wait for a place, which no slot would give."""
    simulation = simulate(places=2)
    simulation.add("a", 300)
    simulation.add("b", 300)
    simulation.step()
    simulation.add("a", 5)
    simulation.add(None, 5)
    simulation.run(2 * SLOT_WAIT_S)
    assert simulation.closed == set()


def test_slot_that_falls_free_for_one_does_not_open_the_other_that_drains(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate()
    simulation.add("a", 100)
    for _ in range(2):
        simulation.add("b", 200)
    simulation.step()
    first, second = simulation.add("c", 400), simulation.add("d", 5)
    simulation.run(SLOT_WAIT_S + STEP_S)
    assert simulation.closed == {"a", "b"}
    late = simulation.add("b", 400)
    simulation.run_until(lambda: second.request_id in simulation.first_token, 5)
    # "b" ended with the two that ran when it was closed, so "d" came before the late one
    assert late.request_id not in simulation.first_token
    assert first.request_id not in simulation.finished


def test_requests_of_one_starved_version_need_one_slot(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate()
    simulation.add("a", 100)
    for _ in range(2):
        simulation.add("b", 400)
    simulation.step()
    cold = [simulation.add("c", 5) for _ in range(10)]
    simulation.run_until(lambda: all(request.request_id in simulation.finished for request in cold), 5)
    assert simulation.running["b"] == 2


@pytest.mark.parametrize("seed", range(4))
def test_every_request_of_a_random_crowd_is_served_within_a_bound(
    simulate: Callable[..., Simulation], seed: int
) -> None:
    chance = random.Random(seed)
    simulation = simulate()
    versions = ["a", "b", "c", "d", "e", "f", "ab", "ac", "de", None]
    weights = [30, 20, 3, 2, 1, 1, 9, 2, 1, 5]
    longest = 60
    crowd = []
    for _ in range(1500):
        if chance.random() < 0.15:
            version = chance.choices(versions, weights)[0]
            crowd.append(simulation.add(version, chance.randint(1, longest), chance.randint(1, 40)))
        simulation.step()
        assert len(simulation.running) <= SLOTS
    simulation.run_until(lambda: len(simulation.finished) == len(crowd))
    # A round is a wait and a drain; eight other sets of versions may be ahead, each with both slots.
    round_s = SLOT_WAIT_S + 2 * longest * STEP_S
    assert max(simulation.waited(request) for request in crowd) < 8 * round_s
    assert max(simulation.waited(request) for request in crowd if request.lora_request is None) < SLOT_WAIT_S


def test_any_number_of_weightings_of_the_same_versions_run_together(simulate: Callable[..., Simulation]) -> None:
    """vLLM counts adapters, of which every weighting is another one to it; here only the versions count."""
    simulation = simulate(places=40)
    crowd = [simulation.add(version, 30) for version in ("ab", "a", "b", "ba") for _ in range(10)]
    simulation.run(5 * STEP_S)
    assert len(simulation.scheduler.running) == len(crowd)


def test_blend_waits_for_all_of_its_versions(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(slot_wait_s=NEVER_S)
    simulation.add("a", 40)
    simulation.add("b", 20)
    simulation.step()
    blend, shared = simulation.add("bc", 5), simulation.add("ab", 5)
    simulation.run_until(lambda: shared.request_id in simulation.finished)
    assert blend.request_id not in simulation.first_token
    simulation.run_until(lambda: blend.request_id in simulation.finished)
    assert simulation.first_token[blend.request_id] > 40 * STEP_S


def test_blend_that_needs_both_slots_is_not_passed_by_those_that_need_one(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate()
    step = keep_busy(simulation, "abef", each=2, tokens=20)
    for _ in range(50):
        step()
    blend = simulation.add("cd", 5)
    while blend.request_id not in simulation.first_token:
        assert simulation.now - blend.arrival_time < 3 * (SLOT_WAIT_S + 30 * STEP_S)
        step()


def test_without_ageing_such_a_blend_would_wait_for_ever(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(slot_wait_s=NEVER_S)
    step = keep_busy(simulation, "abef", each=2, tokens=20)
    for _ in range(50):
        step()
    blend = simulation.add("cd", 5)
    for _ in range(2000):
        step()
    assert blend.request_id not in simulation.first_token


def test_slots_are_kept_only_from_those_who_came_later(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate()
    simulation.add("a", 400)
    simulation.step()
    starved = simulation.add("cd", 5)
    simulation.run(SLOT_WAIT_S + STEP_S)
    late = simulation.add("e", 5)
    base = simulation.add(None, 5)
    shared = simulation.add("a", 5)
    simulation.run(1)
    # one slot is free, and kept for "cd", which waits for the end of "a"; who needs no slot goes on, but for "a" itself
    assert base.request_id in simulation.finished
    assert late.request_id not in simulation.first_token
    assert shared.request_id not in simulation.first_token
    simulation.run_until(lambda: late.request_id in simulation.finished)
    first = simulation.first_token
    assert first[starved.request_id] < first[late.request_id]


def test_a_tenant_with_many_adapters_does_not_keep_another_from_its_slot(
    simulate: Callable[..., Simulation],
) -> None:
    """Its requests came first, and have waited for long; but it has had its share."""
    simulation = simulate()
    for number in range(60):
        simulation.add(chr(0x100 + number), 10, tenant="flood")
    simulation.run(SLOT_WAIT_S + 0.5)
    late = simulation.add("Z", 4, tenant="small")
    asked = simulation.now
    while late.request_id not in simulation.first_token:
        simulation.step()
        assert simulation.now < asked + 60
    # a slot is free when one of the two running requests ends
    assert simulation.first_token[late.request_id] - asked < SLOT_WAIT_S + 30 * STEP_S
    assert sum(name not in simulation.finished for name in simulation.requests) > 20


def test_the_base_model_is_shared_fairly_too(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    for _ in range(40):
        simulation.add(None, 10, tenant="flood")
    simulation.run(0.1)
    late = simulation.add(None, 4, tenant="small")
    asked = simulation.now
    while late.request_id not in simulation.first_token:
        simulation.step()
    assert simulation.first_token[late.request_id] - asked < 12 * STEP_S
