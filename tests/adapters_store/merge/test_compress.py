from typing import Any

import pytest
import torch

from polyad.adapters_store.delta import LowRank, ModuleDelta, dense
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.compress import Compress, Compressed, approximate, compress_dense, compress_low_rank


def matrix(rows: int, columns: int, decay: float = 0.9, seed: int = 0) -> torch.Tensor:
    """A random matrix whose singular values fall by a factor."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vt = torch.linalg.svd(torch.randn(rows, columns, generator=generator), full_matrices=False)
    return u * decay ** torch.arange(len(vt)) @ vt


def written_out(result: Compressed) -> torch.Tensor:
    found, _ = dense(ModuleDelta(low_rank=result.low_rank, sparse=result.sparse), dtype=torch.float64)
    assert found is not None
    return found


@pytest.mark.parametrize("shape", [(20, 300), (300, 20), (400, 500), (7, 7), (1, 5)])
@pytest.mark.parametrize("rule", [Compress(rank=5), Compress(energy=0.9), Compress(energy=0.9, max_rank=3)])
def test_the_error_on_record_is_the_error(shape: tuple[int, int], rule: Compress) -> None:
    change = matrix(*shape)
    result = compress_dense(change, rule)
    error = float((written_out(result) - change.double()).norm())
    assert result.error == pytest.approx(error, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(400, 500), (500, 400), (24, 500)])
def test_it_is_near_the_best_there_is(shape: tuple[int, int], decay: float) -> None:
    change = matrix(*shape, decay)
    result = approximate(change, Compress(rank=16))
    best = float(torch.linalg.svdvals(change.double())[16:].norm())
    assert result.low_rank is not None and result.low_rank.rank == 16
    # float32 has seven digits: an error that is nothing beside the whole is not looked at closer
    assert result.error <= 1.01 * best + 1e-3 * float(change.norm())


def test_an_energy_gives_the_smallest_rank_that_has_it() -> None:
    change = matrix(60, 80)
    squares = torch.linalg.svdvals(change.double()).square()
    for energy in (0.5, 0.9, 0.99):
        result = compress_dense(change, Compress(energy=energy))
        assert result.low_rank is not None
        rank = result.low_rank.rank
        assert float(squares[:rank].sum()) >= energy * float(squares.sum()) * (1 - 1e-6)
        assert float(squares[: rank - 1].sum()) < energy * float(squares.sum())


def test_a_low_rank_matrix_is_found_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(400, 6, generator=generator) @ torch.randn(6, 500, generator=generator)
    result = compress_dense(change, Compress(energy=1.0, max_rank=32))
    torch.testing.assert_close(written_out(result).float(), change, rtol=1e-4, atol=1e-4)
    assert result.error < 1e-3 * float(change.norm())


def test_what_is_sparse_stays_sparse_and_exact() -> None:
    change = torch.zeros(30, 40)
    change[3, 5], change[29, 39] = 1.5, -2.0
    for rule in (None, Compress(rank=1, sparse_below=0.05), Compress(density=0.01)):
        result = compress_dense(change, rule)
        assert result.error == 0 and result.low_rank is None
        assert torch.equal(written_out(result).float(), change)


def test_a_density_keeps_the_largest() -> None:
    change = matrix(30, 40)
    result = compress_dense(change, Compress(density=0.1))
    assert result.sparse is not None and result.sparse.count == 120
    assert float(result.sparse.values.abs().min()) >= float(change.abs().flatten().kthvalue(1200 - 119).values)


def test_a_sum_within_the_bound_is_left_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    term = LowRank(torch.randn(6, 40, generator=generator), torch.randn(30, 6, generator=generator), 1.0)
    rule = Compress(energy=0.5, max_rank=8, sparse_below=0.05)
    assert compress_low_rank(term, rule).low_rank is term
    smaller = compress_low_rank(term, Compress(energy=0.9999, max_rank=4))
    assert smaller.low_rank is not None and smaller.low_rank.rank == 4 and smaller.error > 0


@pytest.mark.parametrize(
    "given", [{}, {"rank": 1, "energy": 0.5}, {"rank": 0}, {"energy": 1.5}, {"density": 0.0}, {"rank": True}]
)
def test_nonsense_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="compress"):
        Compress(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("below", [-0.1, 1.5, float("nan"), float("inf"), True, "0.5", None])
def test_sparse_below_is_a_share(below: Any) -> None:
    with pytest.raises(InvalidInput, match="compress.sparse_below: got .*, allowed: a share, from 0 to 1"):
        Compress(rank=1, sparse_below=below)
    assert [Compress(rank=1, sparse_below=share).sparse_below for share in (0, 0.5, 1)] == [0, 0.5, 1]
