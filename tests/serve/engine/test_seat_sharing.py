"""Who gives way, by its declared rules, for any crowd."""

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from polyad.serve.engine.seat_sharing import Holder, entitlements, who_gives_way

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
