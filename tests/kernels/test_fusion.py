"""Every implementation of fusion against float64, and what must hold of the methods whatever the logits are."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.kernels.fusion.fuser import Fuser, Group, select_fuser
from polyad.kernels.fusion.method import (
    Linear,
    MeanProbabilities,
    Search,
    contrastive,
    mean_log_probabilities,
    proxy,
    static,
)
from tests.kernels.fusion_cases import INFINITE, close, kl, published_search, streams, whole

VOCABULARY = 1531  # no multiple of any vector
CANDIDATES = [index / 10 for index in range(21)]
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(params=["reference", "cpu"])
def fuse(request: pytest.FixtureRequest) -> Fuser:
    return select_fuser(request.param)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def test_linear_methods_are_their_formulas(fuse: Fuser, dtype: torch.dtype) -> None:
    given_SV = streams(3, VOCABULARY, 1, dtype)
    base_V, first_V, second_V = given_SV.double()
    cases = {
        static((0.7, -0.4)): base_V + 0.7 * (first_V - base_V) - 0.4 * (second_V - base_V),
        proxy(1.5): base_V + 1.5 * (first_V - second_V),
        mean_log_probabilities((0.2, 0.5, 0.3)): 0.2 * base_V + 0.5 * first_V + 0.3 * second_V,
        Linear((0.5, 0.5, 0.0), temperature=2.0): (base_V + first_V) / 4,
    }
    for method, wanted_V in cases.items():
        close(fuse(given_SV, whole(given_SV, method)).logits_GV[0], wanted_V, 1e-4)


def test_mean_of_probabilities_is_their_mean_and_no_more_than_the_largest(fuse: Fuser, dtype: torch.dtype) -> None:
    given_SV = streams(3, VOCABULARY, 2, dtype)
    weights_S = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    mean_V = weights_S @ given_SV.double().softmax(1)
    fused_V = fuse(given_SV, whole(given_SV, MeanProbabilities((0.5, 0.3, 0.2)))).logits_GV[0]
    close(fused_V, mean_V.log(), 1e-4)
    assert bool((fused_V.double().exp() <= given_SV.double().softmax(1).max(0).values + 1e-6).all())


def test_contrast_keeps_only_plausible_tokens(fuse: Fuser) -> None:
    given_SV = streams(2, VOCABULARY, 3)
    expert_V, amateur_V = given_SV.double()
    plausible_V = expert_V.softmax(0) >= 0.05 * expert_V.softmax(0).max()
    wanted_V = (1.5 * expert_V - 0.5 * amateur_V).masked_fill(~plausible_V, -INFINITE)
    close(fuse(given_SV, whole(given_SV, contrastive(0.05, 0.5))).logits_GV[0], wanted_V, 1e-4)
    assert 1 < int(plausible_V.sum()) < VOCABULARY / 2


def test_static_whose_weights_sum_to_one_is_the_mean_of_log_probabilities(fuse: Fuser) -> None:
    given_SV = streams(4, VOCABULARY, 4)
    one = fuse(given_SV, whole(given_SV, static((0.2, 0.5, 0.3)))).logits_GV[0]
    other = fuse(given_SV, [Group((1, 2, 3), mean_log_probabilities((0.2, 0.5, 0.3)))]).logits_GV[0]
    close(one, other.double(), 1e-5)


def test_weights_of_nothing_are_the_base_bit_for_bit(fuse: Fuser) -> None:
    given_SV = streams(3, VOCABULARY, 5)
    for method in (static((0.0, 0.0)), proxy(0.0)):
        assert torch.equal(fuse(given_SV, whole(given_SV, method)).logits_GV[0], given_SV[0])
    close(fuse(given_SV, whole(given_SV, Search(count=1))).logits_GV[0], given_SV[0].double(), 1e-5)


def test_search_over_one_expert_on_the_same_base_is_that_expert(fuse: Fuser, dtype: torch.dtype) -> None:
    for seed in range(5):
        given_SV = streams(2, VOCABULARY, seed, dtype)
        fused = fuse(given_SV, whole(given_SV, Search()))
        assert fused.records_GF[0, 4:].tolist() == pytest.approx([1, 0, 1])
        close(fused.logits_GV[0], given_SV[1].double(), 1e-4)


@pytest.mark.parametrize("experts", [2, 3, 4])
def test_search_is_the_published_one(fuse: Fuser, dtype: torch.dtype, experts: int) -> None:
    for seed in range(4):
        given_SV = streams(1 + experts, VOCABULARY, seed, dtype)
        expert, alpha = published_search(given_SV, CANDIDATES)
        fused = fuse(given_SV, whole(given_SV, Search()))
        weights_S = fused.records_GF[0, 5:]
        assert int(fused.records_GF[0, 4]) == expert
        assert float(weights_S[expert]) == pytest.approx(alpha)
        base_V, expert_V = given_SV[0].double(), given_SV[expert].double()
        close(fused.logits_GV[0], base_V + alpha * (expert_V - base_V), 1e-4)


def test_search_says_the_divergences_that_it_found_and_those_that_it_looked_for(fuse: Fuser) -> None:
    given_SV = streams(3, VOCABULARY, 6)
    fused = fuse(given_SV, whole(given_SV, Search()))
    base_V, experts = given_SV[0], given_SV[1:]
    wanted = [
        kl(fused.logits_GV[0], base_V),
        kl(base_V, fused.logits_GV[0]),
        sum(kl(one, base_V) for one in experts) / 2,
        sum(kl(base_V, one) for one in experts) / 2,
    ]
    assert fused.records_GF[0, :4].tolist() == pytest.approx(wanted, abs=1e-4)


def test_joint_search_is_never_worse_than_where_it_began_and_equal_experts_share(fuse: Fuser) -> None:
    given_SV = streams(3, VOCABULARY, 7)
    method = Search(rho=0.01)
    fused = fuse(given_SV, whole(given_SV, method))
    exact = select_fuser("reference")(given_SV.double(), whole(given_SV, method))
    assert fused.records_GF[0, 5:].tolist() == pytest.approx(exact.records_GF[0, 5:].tolist(), abs=1e-6)
    target = [sum(kl(one, given_SV[0]) for one in given_SV[1:]) / 2, sum(kl(given_SV[0], o) for o in given_SV[1:]) / 2]

    def cost(weights: list[float]) -> float:
        fused_V = given_SV[0] + sum(w * (one - given_SV[0]) for w, one in zip(weights, given_SV[1:], strict=True))
        found = kl(fused_V, given_SV[0]), kl(given_SV[0], fused_V)
        away = sum((a - b) ** 2 for a, b in zip(found, target, strict=True))
        return away + 0.01 * sum((weight - 0.5) ** 2 for weight in weights)

    best = fused.records_GF[0, 6:].tolist()
    assert cost(best) < cost([0.5, 0.5])
    for place in (0, 1):
        moved = [[w + (index == place) * change for index, w in enumerate(best)] for change in (-0.1, 0.1)]
        assert all(cost(best) <= cost(other) + 1e-5 for other in moved) or place == 0


def test_order_of_experts_matters_only_for_ties(fuse: Fuser) -> None:
    given_SV = streams(4, VOCABULARY, 8)
    turned_SV = given_SV[[0, 3, 1, 2]]
    for method in (Search(), static((0.5, 0.5, 0.5))):
        one, other = (fuse(rows, whole(rows, method)).logits_GV[0] for rows in (given_SV, turned_SV))
        close(one, other.double(), 1e-5)
    equal_SV = given_SV[[0, 1, 1, 1]]
    record = fuse(equal_SV, whole(equal_SV, Search())).records_GF[0]
    assert record[4:].tolist() == pytest.approx([1, 0, 1, 0, 0]), "of equal experts, the first, as it is"


def test_expert_that_is_its_base_changes_nothing(fuse: Fuser) -> None:
    given_SV = streams(2, VOCABULARY, 9)[[0, 0, 0]]
    record = fuse(given_SV, whole(given_SV, Search())).records_GF[0]
    assert record.tolist() == pytest.approx([0, 0, 0, 0, 0, 1, 0, 0], abs=1e-5)


METHODS = {
    "static": static((1.5, -0.7)),
    "proxy": proxy(2.0),
    "mean_log": mean_log_probabilities((0.4, 0.3, 0.3)),
    "mean": MeanProbabilities((0.4, 0.3, 0.3)),
    "dlf": Search(),
    "joint": Search(rho=0.1),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("mask", [-INFINITE, torch.finfo(torch.float32).min])
def test_masks_make_no_nan_and_stay(fuse: Fuser, name: str, mask: float) -> None:
    given_SV = streams(3, VOCABULARY, 10)
    given_SV[0, :100], given_SV[1, 50:150], given_SV[2, -200:] = mask, mask, mask
    fused = fuse(given_SV, whole(given_SV, METHODS[name]))
    masked = (given_SV == mask).all(0) if name == "mean" else (given_SV == mask).any(0)
    assert torch.equal(fused.logits_GV[0] == -INFINITE, masked)
    assert not fused.logits_GV.isnan().any()
    assert not fused.records_GF[0, 4:].isnan().any()
    kept_SV = given_SV[:, ~(given_SV == mask).any(0)]
    if name in ("dlf", "joint"):
        wanted = select_fuser("reference")(kept_SV.double(), whole(kept_SV, METHODS[name])).records_GF
        assert fused.records_GF.tolist() == [pytest.approx(row, abs=1e-4) for row in wanted.tolist()]


@pytest.mark.parametrize("name", METHODS)
def test_many_groups_in_one_call_are_what_each_is_alone(fuse: Fuser, name: str) -> None:
    rows_RV = torch.cat([streams(3, VOCABULARY, seed) for seed in range(4)])[torch.randperm(12)]
    groups = [
        Group((7, 2, 11), METHODS[name]),
        Group((0, 1), static((0.3,))),
        Group((3, 5, 4, 6), Search()),
        Group((8, 9, 10), METHODS[name]),
    ]
    together = fuse(rows_RV, groups)
    assert fuse(rows_RV, []).logits_GV.shape == (0, VOCABULARY)
    for index, group in enumerate(groups):
        alone = fuse(rows_RV[list(group.rows)].contiguous(), [Group(tuple(range(len(group.rows))), group.method)])
        assert torch.equal(together.logits_GV[index], alone.logits_GV[0])
        fields = alone.records_GF.shape[1]
        assert torch.equal(together.records_GF[index, :fields].nan_to_num(9), alone.records_GF[0].nan_to_num(9))
        assert not together.records_GF[index, fields:].any()


def test_every_instruction_set_here_computes_the_same() -> None:
    from polyad.kernels import _fusion
    from polyad.kernels.fusion import cpu

    given_SV = streams(3, VOCABULARY, 11)
    before, found = cpu.LANES, {}
    try:
        for name, lanes in _fusion.supported().items():
            cpu.LANES = lanes
            found[name] = [cpu.fuse(given_SV, whole(given_SV, method)) for method in METHODS.values()]
    finally:
        cpu.LANES = before
    assert "portable" in found
    for fused in found.values():
        for one, other in zip(fused, found["portable"], strict=True):
            close(one.logits_GV[0], other.logits_GV[0].double(), 1e-5)


def test_native_code_refuses_what_it_cannot_read() -> None:
    fuse = select_fuser("cpu")
    with pytest.raises(ValueError, match="float16"):
        fuse(torch.zeros(2, 8, dtype=torch.float16), [])
    with pytest.raises(ValueError, match="strides"):
        fuse(torch.zeros(8, 2).t(), [])


# Oracles of the mathematics itself, in float64.


def curve(logits_SV: torch.Tensor, alpha: float) -> tuple[float, float]:
    fused_V = logits_SV[0] + alpha * (logits_SV[1] - logits_SV[0])
    return kl(fused_V, logits_SV[0]), kl(logits_SV[0], fused_V)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_divergences_rise_with_alpha_and_their_slopes_are_variance_and_mean(seed: int) -> None:
    """A' = alpha Var(d), B' = E(d) - E0(d): why one pass over (l0, d) is enough for all candidates."""
    given_SV = streams(2, 200, seed, torch.float64)
    points = [curve(given_SV, alpha) for alpha in CANDIDATES]
    for (a, b), (next_a, next_b) in pairwise(points):
        assert next_a >= a - 1e-12
        assert next_b >= b - 1e-12
    d_V, alpha, width = given_SV[1] - given_SV[0], 0.7, 1e-5
    p_V, base_V = (given_SV[0] + alpha * d_V).softmax(0), given_SV[0].softmax(0)
    mean = float(p_V @ d_V)
    above, below = curve(given_SV, alpha + width), curve(given_SV, alpha - width)
    assert (above[0] - below[0]) / (2 * width) == pytest.approx(alpha * (float(p_V @ d_V**2) - mean**2), abs=1e-6)
    assert (above[1] - below[1]) / (2 * width) == pytest.approx(mean - float(base_V @ d_V), abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), experts=st.integers(2, 5))
def test_objective_depends_on_the_mean_radii_alone(seed: int, experts: int) -> None:
    given_SV = streams(1 + experts, 200, seed, torch.float64)
    own = [(kl(one, given_SV[0]), kl(given_SV[0], one)) for one in given_SV[1:]]
    mean_a, mean_b = (sum(values) / experts for values in zip(*own, strict=True))

    def both(alpha: float) -> tuple[float, float]:
        a, b = curve(given_SV, alpha)
        published = sum((a - own_a) ** 2 + (b - own_b) ** 2 for own_a, own_b in own)
        return published, experts * ((a - mean_a) ** 2 + (b - mean_b) ** 2)

    constants = [published - ours for published, ours in map(both, CANDIDATES)]
    assert constants == pytest.approx([constants[0]] * len(constants), abs=1e-9)
