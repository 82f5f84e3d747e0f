import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta, scale, weighted_sum
from polyad.adapters_store.errors import InvalidInput
from tests.fixtures.deltas import SHAPES, deltas, random_module, whole

WEIGHTS = st.floats(-3, 3, allow_nan=False)
QUICK = settings(max_examples=40, deadline=None)


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-12) -> None:
    for module in SHAPES:
        torch.testing.assert_close(one[module], other[module], rtol=tolerance, atol=tolerance)


@QUICK
@given(terms=st.lists(st.tuples(deltas(), WEIGHTS), max_size=4))
def test_it_is_the_sum_of_what_is_written_out(terms: list[tuple[Delta, float]]) -> None:
    summed = weighted_sum([delta for delta, _ in terms], [weight for _, weight in terms])
    expected = whole(Delta({}))
    for delta, weight in terms:
        expected = {module: expected[module] + weight * matrix for module, matrix in whole(delta).items()}
    assert_same(whole(summed), expected)


@QUICK
@given(one=deltas(), other=deltas(), weight=WEIGHTS)
def test_order_and_nesting_do_not_matter(one: Delta, other: Delta, weight: float) -> None:
    summed = whole(weighted_sum([one, other], [1.0, weight]))
    assert_same(whole(weighted_sum([other, one], [weight, 1.0])), summed)
    assert_same(whole(weighted_sum([one, scale(other, weight)], [1.0, 1.0])), summed)


@QUICK
@given(delta=deltas())
def test_a_delta_less_itself_is_nothing(delta: Delta) -> None:
    assert_same(whole(weighted_sum([delta, delta], [1.0, -1.0])), whole(Delta({})))


def test_ranks_add_up_and_factors_of_a_lone_term_stay() -> None:
    one, other = (random_module((6, 4), ("low_rank",), seed, torch.bfloat16, rank=seed + 1) for seed in range(2))
    both = weighted_sum([Delta({"m": one}), Delta({"m": other, "n": other})], [0.5, -2.0])
    assert both.modules["m"].low_rank is not None and both.modules["m"].low_rank.rank == 3
    assert both.modules["m"].low_rank.a.dtype == torch.float32
    lone = both.modules["n"].low_rank
    assert lone is not None and other.low_rank is not None
    assert lone.a is other.low_rank.a and lone.b is other.low_rank.b
    assert lone.scale == -2.0 * other.low_rank.scale


def test_scales_are_folded_in_float32() -> None:
    """In bf16 the sum would be off by a hundredth."""
    ones = LowRank(torch.ones(1, 1).bfloat16(), torch.ones(1, 1).bfloat16(), 1.0)
    many = [Delta({"m": ModuleDelta(low_rank=ones)})] * 3
    term = weighted_sum(many, [0.1001, 0.2002, 0.3003]).modules["m"].low_rank
    assert term is not None
    assert float(term.b @ term.a) == pytest.approx(0.6006, rel=1e-6)


def test_averaging_factors_would_be_another_thing() -> None:
    """The sum is of products, not of factors (PEFT's combination_type linear is of factors)."""
    one, other = (random_module(SHAPES["layers.0.q"], ("low_rank",), seed) for seed in range(2))
    assert one.low_rank and other.low_rank
    mean = whole(weighted_sum([Delta({"layers.0.q": one}), Delta({"layers.0.q": other})], [0.5, 0.5]))["layers.0.q"]
    factors = (one.low_rank.b + other.low_rank.b) @ (one.low_rank.a + other.low_rank.a) / 4
    assert (mean[:, :-1] - factors).norm() > 0.1 * mean.norm()


def test_weight_zero_is_nothing() -> None:
    delta = Delta({"layers.0.q": random_module((6, 4), ("low_rank", "bias"), 1)})
    assert scale(delta, 0).modules == {}


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_weights_are_finite(weight: float) -> None:
    with pytest.raises(InvalidInput, match="weights: got"):
        scale(Delta({}), weight)


def test_refused() -> None:
    one, other = (Delta({"m": random_module(shape, ("bias", "sparse"), 1)}) for shape in ((6, 4), (6, 5)))
    with pytest.raises(InvalidInput, match=r"m: in_features: got \[4, 5\]"):
        weighted_sum([one, other], [1.0, 1.0])
    with pytest.raises(InvalidInput, match="weights: got 1"):
        weighted_sum([one, one], [1.0])
