"""A low-rank term with fewer ranks: the best one there is, without forming B A (Eckart and Young).

By QR of the factors and a small SVD, in float64:

    B = Qb Rb,  Aᵀ = Qa Ra,  Rb Raᵀ = U S Vᵀ;  then  B' = Qb U √S,  A' = √S Vᵀ Qaᵀ,  cut to the first k

Factors of float32 or less are not known better than their products with themselves in float64 tell, which are many
times as fast to have:

    Bᵀ B = L Lᵀ,  Lᵀ (A Aᵀ) L = U S² Uᵀ;  then  B' = B (A Aᵀ) L U S^-3/2,  A' = S^-1/2 Uᵀ Lᵀ A,  cut to the first k

Each rank's column of B and row of A are first given the same norm, so that what the squares lose, a part in 10^8, is
lost of the terms' own size. Shape suffixes: R rank, K kept ranks, I input features, O output features, S min(R, I) or
min(R, O).
"""

from dataclasses import dataclass

import torch

from polyad.adapters_store.delta.grams import Grams
from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Recompressed:
    """`error` is the Frobenius norm of what was cut off, `relative_error` its share of the norm of the whole."""

    term: LowRank
    error: float
    relative_error: float


def recompress(
    term: LowRank, *, rank: int | None = None, energy: float | None = None, grams: Grams | None = None
) -> Recompressed:
    """The best approximation of `rank`, or of the smallest rank that keeps a share `energy` of the squared norm.

    Computed in float64, returned in float32 (float64 where the factors have it), with scale 1. `grams` are those of the
    term, if somebody has them. Raises InvalidInput unless exactly one of the two is given and allowed.
    """
    if torch.float64 not in (term.a.dtype, term.b.dtype):
        found = _by_grams(term, grams or Grams.of([term]), rank, energy)
        if found is not None:
            return found
    return _by_factors(term, rank, energy)


def _by_factors(term: LowRank, rank: int | None, energy: float | None) -> Recompressed:
    b_OS, rb_SR = torch.linalg.qr(term.b.double() * term.scale)
    a_IS, ra_SR = torch.linalg.qr(term.a.double().t())
    u, s, vt = torch.linalg.svd(rb_SR @ ra_SR.t(), full_matrices=False)
    kept = kept_rank(s, rank=rank, energy=energy)
    root = s[:kept].sqrt()
    return _result(term, root[:, None] * (vt[:kept] @ a_IS.t()), (b_OS @ u[:, :kept]) * root, s, kept)


def _by_grams(term: LowRank, grams: Grams, rank: int | None, energy: float | None) -> Recompressed | None:
    """None where Bᵀ B has no root: there are more ranks than B has."""
    a_RR, b_RR = grams.a_NN, grams.b_NN * grams.scale_N * grams.scale_N[:, None]
    balance_R = (a_RR.diagonal() / b_RR.diagonal()).pow(0.25)
    if not bool((balance_R.isfinite() & (balance_R > 0)).all()):
        return None
    a_RR = a_RR / balance_R / balance_R[:, None]
    l_RR, failed = torch.linalg.cholesky_ex(b_RR * balance_R * balance_R[:, None])
    if int(failed):
        return None
    squares, u_RR = torch.linalg.eigh(l_RR.t() @ a_RR @ l_RR)
    squares = squares.flip(0)
    noise = len(squares) * torch.finfo(torch.float64).eps * squares[0]
    s = torch.where(squares > noise, squares, 0).sqrt()
    kept = kept_rank(s, rank=rank, energy=energy)
    lu_RK = l_RR @ u_RR.flip(1)[:, :kept]
    # a direction that is not there has no factors
    root_K = torch.where(s[:kept] > 0, s[:kept].rsqrt(), 0)
    a_KI = (lu_RK * root_K / balance_R[:, None]).t() @ grams.a_NI
    b_OK = grams.b_NO.t() @ (a_RR @ lu_RK * root_K.pow(3) * (balance_R * grams.scale_N)[:, None])
    return _result(term, a_KI, b_OK, s, kept)


def _result(term: LowRank, a_KI: torch.Tensor, b_OK: torch.Tensor, s: torch.Tensor, kept: int) -> Recompressed:
    dtype = torch.promote_types(torch.promote_types(term.a.dtype, term.b.dtype), torch.float32)
    error, whole = float(s[kept:].norm()), float(s.norm())
    smaller = LowRank(a_KI.to(dtype).contiguous(), b_OK.to(dtype).contiguous(), 1.0)
    return Recompressed(smaller, error, error / whole if whole else 0.0)


def kept_rank(singular: torch.Tensor, *, rank: int | None, energy: float | None) -> int:
    """How many of the descending `singular` values a rank or a share of the energy keeps; at least one.

    Raises InvalidInput unless exactly one of the two is given and allowed.
    """
    if (rank is None) == (energy is None):
        raise InvalidInput("rank", (rank, energy), "a rank or an energy, and not both")
    if rank is not None:
        if rank < 1:
            raise InvalidInput("rank", rank, "a positive integer")
        return min(rank, len(singular))
    if energy is None or not 0 < energy <= 1:
        raise InvalidInput("energy", energy, "a share, above 0 and at most 1")
    squares = singular.double().square().cumsum(0)
    return int((squares < energy * squares[-1]).sum()) + 1
