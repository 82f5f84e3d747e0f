import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.importer import Method

QUICK = settings(max_examples=40, deadline=None)
SIZES = st.integers(1, 9)


def change_of(out_features: int, in_features: int, seed: int) -> torch.Tensor:
    return torch.randn(out_features, in_features, generator=torch.Generator().manual_seed(seed))


@QUICK
@given(out_features=SIZES, in_features=SIZES, rank=SIZES, seed=st.integers(0, 10**6))
def test_low_rank_is_the_truncated_svd(out_features: int, in_features: int, rank: int, seed: int) -> None:
    change = change_of(out_features, in_features, seed)
    u, s, vt = torch.linalg.svd(change.double(), full_matrices=False)
    term = Method(rank=rank).low_rank(change)
    assert term.rank == min(rank, out_features, in_features)
    best = u[:, :rank] @ torch.diag(s[:rank]) @ vt[:rank]
    torch.testing.assert_close(term.b.double() @ term.a.double(), best, rtol=0, atol=1e-5 * float(1 + s[0]))


@QUICK
@given(energy=st.floats(0.05, 1), seed=st.integers(0, 10**6))
def test_energy_is_kept_by_no_rank_more_than_it_takes(energy: float, seed: int) -> None:
    change = change_of(8, 6, seed)
    squares = torch.linalg.svdvals(change.double()).square()
    term = Method(energy=energy).low_rank(change)
    assert float(squares[: term.rank].sum() / squares.sum()) >= energy - 1e-9
    assert term.rank == 1 or float(squares[: term.rank - 1].sum() / squares.sum()) < energy + 1e-9


def test_a_change_of_lower_rank_is_met_exactly() -> None:
    change = change_of(9, 2, 1) @ change_of(2, 7, 2)
    term = Method(rank=5).low_rank(change)
    torch.testing.assert_close(term.b @ term.a, change, rtol=1e-5, atol=1e-5)
    assert term.a.isfinite().all()


@QUICK
@given(out_features=SIZES, in_features=SIZES, density=st.floats(0.01, 1), seed=st.integers(0, 10**6))
def test_sparse_keeps_the_largest(out_features: int, in_features: int, density: float, seed: int) -> None:
    change = change_of(out_features, in_features, seed)
    term = Method(density=density).sparse(change)
    assert term.count == max(round(density * change.numel()), 1)
    kept = torch.zeros(change.numel(), dtype=torch.bool)
    kept[term.indices.long()] = True
    assert term.values.equal(change.flatten()[kept])
    assert kept.all() or change.flatten()[kept].abs().min() >= change.flatten()[~kept].abs().max()


def test_zeros_are_not_kept() -> None:
    change = torch.zeros(4, 4)
    change[1, 2] = -3
    term = Method(density=0.5).sparse(change)
    assert (term.indices.tolist(), term.values.tolist()) == ([6], [-3])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of rank, energy and density"),
        ({"rank": 1, "energy": 0.5}, "one of rank, energy and density"),
        ({"rank": 0}, "rank: got 0"),
        ({"energy": 0.0}, "energy: got 0.0"),
        ({"energy": 1.5}, "energy: got 1.5"),
        ({"density": float("nan")}, "density: got nan"),
    ],
)
def test_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Method(**given)  # type: ignore[arg-type]
