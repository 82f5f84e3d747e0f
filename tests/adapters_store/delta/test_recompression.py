from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.adapters_store.delta import LowRank, dense, recompress
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.errors import InvalidInput

QUICK = settings(max_examples=40, deadline=None)
SIZES = st.integers(1, 9)


def random_term(out_features: int, in_features: int, rank: int, seed: int = 0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((rank, in_features), (out_features, rank))
    )
    return LowRank(a, b, -0.7)


def product(term: LowRank) -> torch.Tensor:
    return term.scale * term.b.double() @ term.a.double()


@QUICK
@given(out_features=SIZES, in_features=SIZES, rank=SIZES, kept=SIZES, seed=st.integers(0, 10**6))
def test_it_is_the_truncated_svd(out_features: int, in_features: int, rank: int, kept: int, seed: int) -> None:
    term = random_term(out_features, in_features, rank, seed)
    u, s, vt = torch.linalg.svd(product(term), full_matrices=False)
    result = recompress(term, rank=kept)
    best = u[:, :kept] @ torch.diag(s[:kept]) @ vt[:kept]
    torch.testing.assert_close(product(result.term), best, rtol=0, atol=1e-12 * float(1 + s[0]))
    assert result.term.rank == min(kept, rank, out_features, in_features)
    assert result.error == pytest.approx(float(s[kept:].norm()), abs=1e-12 * float(1 + s[0]))
    assert result.relative_error == pytest.approx(result.error / float(s.norm()), rel=1e-9, abs=1e-12)


def narrow(term: LowRank) -> LowRank:
    return LowRank(term.a.float(), term.b.float(), term.scale)


def unbalanced(term: LowRank) -> LowRank:
    """Large rows of A beside small columns of B, and the other way round."""
    factor = torch.logspace(-6, 6, term.rank, dtype=torch.float64)
    return LowRank(term.a * factor[:, None], term.b / factor, term.scale)


def twice(term: LowRank) -> LowRank:
    return LowRank(torch.cat([term.a, term.a]), torch.cat([term.b, 0.5 * term.b], 1), term.scale)


def fading(term: LowRank) -> LowRank:
    return LowRank(term.a * torch.logspace(0, -9, term.rank, dtype=torch.float64)[:, None], term.b, term.scale)


@QUICK
@given(
    out_features=st.integers(1, 60),
    in_features=st.integers(1, 60),
    rank=st.integers(1, 24),
    kept=st.integers(1, 24),
    change=st.sampled_from([lambda term: term, unbalanced, twice, fading]),
    seed=st.integers(0, 10**6),
)
def test_factors_in_float32_become_as_good_as_float32_is(
    out_features: int, in_features: int, rank: int, kept: int, change: Callable[[LowRank], LowRank], seed: int
) -> None:
    term = narrow(change(random_term(out_features, in_features, rank, seed)))
    exact = product(term)
    s = torch.linalg.svdvals(exact)
    result = recompress(term, rank=kept)
    lost = float((exact - product(result.term)).norm())
    least = float(s[kept:].norm())
    assert lost <= least + 1e-6 * float(s[0])
    assert result.error == pytest.approx(least, abs=1e-6 * float(s[0]))
    assert result.term.rank <= kept
    assert result.term.a.isfinite().all() and result.term.b.isfinite().all()


@QUICK
@given(energy=st.floats(0.01, 1), seed=st.integers(0, 10**6))
def test_energy_keeps_the_smallest_rank_that_has_it(energy: float, seed: int) -> None:
    term = random_term(8, 6, 7, seed)
    result = recompress(term, energy=energy)
    whole = float(product(term).square().sum())
    assert 1 - result.relative_error**2 >= energy - 1e-12
    if result.term.rank > 1:
        smaller = recompress(term, rank=result.term.rank - 1)
        assert whole * (1 - smaller.relative_error**2) < energy * whole * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_is_in_float32_and_balanced(dtype: torch.dtype) -> None:
    term = random_term(20, 30, 5)
    result = recompress(LowRank(term.a.to(dtype), term.b.to(dtype), 2.0), rank=3).term
    assert (result.a.dtype, result.b.dtype, result.scale) == (torch.float32, torch.float32, 1.0)
    torch.testing.assert_close(result.a.norm(dim=1), result.b.norm(dim=0))
    matrix, _ = dense(ModuleDelta(low_rank=result))
    assert matrix is not None and matrix.isfinite().all()


def test_nothing_recompressed_is_nothing() -> None:
    result = recompress(LowRank(torch.zeros(3, 4), torch.zeros(5, 3), 1.0), energy=0.9)
    assert (result.term.rank, result.error, result.relative_error) == (1, 0.0, 0.0)
    assert not product(result.term).any()


@pytest.mark.parametrize(
    "wanted",
    [{}, {"rank": 2, "energy": 0.5}, {"rank": 0}, {"energy": 0.0}, {"energy": 1.1}, {"energy": float("nan")}],
    ids=str,
)
def test_refused(wanted: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="rank|energy"):
        recompress(random_term(4, 4, 2), **wanted)  # type: ignore[arg-type]
