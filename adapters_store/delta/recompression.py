"""A low-rank term with fewer ranks: the best one there is, by QR of the factors and a small SVD.

    B = Qb Rb,  Aᵀ = Qa Ra,  Rb Raᵀ = U S Vᵀ;  then  B' = Qb U √S,  A' = √S Vᵀ Qaᵀ,  cut to the first k

which equals the truncated SVD of B A (Eckart and Young) without forming it. Shape suffixes: R rank, I input features,
O output features, S min(R, I) or min(R, O).
"""

from dataclasses import dataclass

import torch

from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Recompressed:
    """`error` is the Frobenius norm of what was cut off, `relative_error` its share of the norm of the whole."""

    term: LowRank
    error: float
    relative_error: float


def recompress(term: LowRank, *, rank: int | None = None, energy: float | None = None) -> Recompressed:
    """The best approximation of `rank`, or of the smallest rank that keeps a share `energy` of the squared norm.

    Computed in float64, returned in float32 (float64 where the factors have it), with scale 1. Raises InvalidInput
    unless exactly one of the two is given and allowed.
    """
    b_OS, rb_SR = torch.linalg.qr(term.b.double() * term.scale)
    a_IS, ra_SR = torch.linalg.qr(term.a.double().t())
    u, s, vt = torch.linalg.svd(rb_SR @ ra_SR.t(), full_matrices=False)
    kept = kept_rank(s, rank=rank, energy=energy)
    root = s[:kept].sqrt()
    dtype = torch.promote_types(torch.promote_types(term.a.dtype, term.b.dtype), torch.float32)
    a_RI, b_OR = root[:, None] * (vt[:kept] @ a_IS.t()), (b_OS @ u[:, :kept]) * root
    error, whole = float(s[kept:].norm()), float(s.norm())
    return Recompressed(LowRank(a_RI.to(dtype), b_OR.to(dtype), 1.0), error, error / whole if whole else 0.0)


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
