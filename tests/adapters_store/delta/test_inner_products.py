import pytest
import torch
from hypothesis import given, settings

from polyad.adapters_store.delta import (
    Delta,
    ModuleDelta,
    inner_product,
    module_inner_product,
    module_inner_products,
    module_norm,
    norm,
    scale,
)
from polyad.adapters_store.errors import InvalidInput
from tests.fixtures.deltas import SHAPES, TERMS, base_weight, deltas, random_module, whole, written_out

QUICK = settings(max_examples=40, deadline=None)


def written_out_product(one: Delta, other: Delta) -> float:
    first, second = whole(one), whole(other)
    return float(sum((first[module] * second[module]).sum() for module in SHAPES))


@QUICK
@given(one=deltas(), other=deltas())
def test_it_is_that_of_the_matrices(one: Delta, other: Delta) -> None:
    bound = 1 + float(sum(matrix.norm() for matrix in whole(one).values())) * float(
        sum(matrix.norm() for matrix in whole(other).values())
    )
    expected = written_out_product(one, other)
    assert inner_product(one, other, base_weight) == pytest.approx(expected, abs=1e-12 * bound)
    assert inner_product(other, one, base_weight) == pytest.approx(expected, abs=1e-12 * bound)
    assert norm(one, base_weight) == pytest.approx(written_out_product(one, one) ** 0.5, abs=1e-7 * bound)


@QUICK
@given(delta=deltas())
def test_cauchy_and_schwarz(delta: Delta) -> None:
    doubled = scale(delta, -2.0)
    length = norm(delta, base_weight)
    assert norm(doubled, base_weight) == pytest.approx(2 * length, rel=1e-9)
    assert inner_product(delta, doubled, base_weight) == pytest.approx(-2 * length**2, rel=1e-9)


@pytest.mark.parametrize("first", TERMS)
@pytest.mark.parametrize("second", TERMS)
def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch, first: str, second: str) -> None:
    monkeypatch.setattr("polyad.adapters_store.delta.inner_products._BLOCK_ELEMENTS", 8)
    weight = torch.randn(9, 5, dtype=torch.float64)
    one, other = random_module((9, 5), (first, "sparse"), 1), random_module((9, 5), (second, "sparse"), 2)
    (matrix, bias), (matrix_2, bias_2) = written_out(one, weight), written_out(other, weight)
    expected = float((matrix * matrix_2).sum() + bias @ bias_2)
    assert module_inner_product(one, other, weight) == pytest.approx(expected, rel=1e-11, abs=1e-11)
    assert module_norm(one, weight) == pytest.approx(float(torch.cat([matrix, bias[:, None]], 1).norm()), rel=1e-12)


@pytest.mark.parametrize("kinds", [("low_rank",), TERMS], ids=["factors alone", "all terms"])
def test_all_pairs_are_those_of_each_pair(kinds: tuple[str, ...]) -> None:
    weight = torch.randn(9, 5, dtype=torch.float64)
    changes = [random_module((9, 5), kinds, seed) for seed in range(3)]
    for some in ([*changes], [*changes, None], [ModuleDelta(), *changes]):
        found = module_inner_products(some, weight)
        for one, row in zip(some, found, strict=True):
            for other, value in zip(some, row, strict=True):
                expected = 0.0 if one is None or other is None else module_inner_product(one, other, weight)
                assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_scales_need_the_weight_and_nothing_else_does() -> None:
    scaled, plain = ModuleDelta(row_scale=torch.ones(6)), random_module((6, 4), ("low_rank", "sparse", "bias"), 1)
    assert module_norm(plain) > 0
    for pair in ((scaled, plain), (plain, scaled), (scaled, scaled)):
        with pytest.raises(InvalidInput, match="weight: got None"):
            module_inner_product(*pair)
    with pytest.raises(InvalidInput, match="weight: got None"):
        norm(Delta({"layers.0.q": scaled}))
    with pytest.raises(InvalidInput, match=r"weight: got \(6, 5\)"):
        module_inner_product(scaled, plain, torch.ones(6, 5))


def test_the_weight_is_asked_only_where_scales_need_it() -> None:
    asked = []

    def weights(module: str) -> torch.Tensor:
        asked.append(module)
        return base_weight(module)

    plain, scaled = random_module((6, 4), ("low_rank",), 1), random_module((3, 4), ("column_scale",), 2)
    norm(Delta({"layers.0.q": plain, "layers.0.k": scaled}), weights)
    assert asked == ["layers.0.k"]


def test_sums_are_of_float64() -> None:
    """Squares of 16-bit values overflow their own dtype."""
    change = ModuleDelta(bias=torch.full((4,), 60000.0).half(), row_scale=torch.full((4,), 60000.0).half())
    assert module_norm(change, torch.ones(4, 1).half()) == pytest.approx(60000 * 8**0.5, rel=1e-3)
