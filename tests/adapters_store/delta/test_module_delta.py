import pytest
import torch

from polyad.adapters_store.delta import Delta, LowRank, ModuleDelta, Sparse
from polyad.adapters_store.errors import InvalidInput
from tests.fixtures.deltas import TERMS, random_module

LOW_RANK = LowRank(torch.ones(2, 3), torch.ones(4, 2), 1.0)
SPARSE = Sparse(torch.tensor([1], dtype=torch.int32), torch.ones(1), (4, 3))


def test_what_is_known_of_a_change() -> None:
    change = ModuleDelta(low_rank=LOW_RANK, bias=torch.ones(4))
    assert (change.out_features, change.in_features) == (4, 3)
    assert not change.is_low_rank and not change.scales_weight
    assert change.size == 4 * (2 * 3 + 4 * 2 + 4)
    assert change.tensors.keys() == {"low_rank.a", "low_rank.b", "bias"}
    assert ModuleDelta(low_rank=LOW_RANK).is_low_rank
    assert ModuleDelta(column_scale=torch.ones(3)).scales_weight
    assert (ModuleDelta().out_features, ModuleDelta().in_features, ModuleDelta().tensors) == (None, None, {})


def test_rank_and_size_of_a_delta_count_every_term() -> None:
    changes = {str(seed): random_module((6, 4), TERMS, seed, rank=1 + seed) for seed in range(3)}
    delta = Delta({**changes, "biased": ModuleDelta(bias=torch.ones(5))})
    assert delta.rank == 3
    assert delta.size == 20 + sum(tensor.nbytes for change in changes.values() for tensor in change.tensors.values())
    assert Delta({"biased": ModuleDelta(bias=torch.ones(5))}).rank == 0


@pytest.mark.parametrize(
    "terms",
    [
        {"row_scale": torch.ones(3)},
        {"bias": torch.ones(5)},
        {"column_scale": torch.ones(4)},
        {"sparse": Sparse(torch.empty(0, dtype=torch.int32), torch.empty(0), (4, 4))},
        {"sparse": Sparse(torch.empty(0, dtype=torch.int32), torch.empty(0), (3, 3))},
    ],
    ids=lambda terms: str([*terms]),
)
def test_terms_of_different_shapes(terms: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match=r"module_delta: got \{.*'low_rank': .*one number of (in|out) features"):
        ModuleDelta(low_rank=LOW_RANK, **terms)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["row_scale", "column_scale", "bias"])
@pytest.mark.parametrize(
    "vector", [torch.ones(4, 1), torch.ones(4, dtype=torch.int32), torch.ones(()), torch.empty(0)], ids=str
)
def test_no_vector(name: str, vector: torch.Tensor) -> None:
    with pytest.raises(InvalidInput, match=f"{name}: got"):
        ModuleDelta(**{name: vector})  # type: ignore[arg-type]


def test_integers_are_no_factors() -> None:
    with pytest.raises(InvalidInput, match="floating"):
        LowRank(torch.ones(2, 3, dtype=torch.int32), torch.ones(4, 2), 1.0)
