"""What becomes of a merged matrix: as it is, sparse, or the best low-rank matrix, with the error on record.

Shape suffixes: O output features, I input features, R rank, S the smaller and L the larger of O and I, Q sampled
directions.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from polyad.adapters_store.delta import Grams, LowRank, Sparse, recompress
from polyad.adapters_store.delta.recompression import kept_rank
from polyad.adapters_store.delta.sparse import index_dtype
from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.counter_random import normal, stream
from polyad.adapters_store.merge.task import Result
from polyad.adapters_store.merge.threshold import top_mask
from polyad.adapters_store.merge.workspace import Workspace
from polyad.kernels import merging
from polyad.kernels.sieve import Combination, Empty

_OVERSAMPLED = 16
_POWER_STEPS = 2


def _empty(count: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(count, dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class Compress:
    """One of three: `rank`, the rank that keeps a share `energy` of the squared norm, or the largest share `density` of
    the values. `max_rank` bounds the rank that an energy asks for.

    Whatever has no more than a share `sparse_below` of non-zero values stays sparse and exact. Raises InvalidInput.
    """

    rank: int | None = None
    energy: float | None = None
    density: float | None = None
    max_rank: int | None = None
    sparse_below: float = 0.0

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("rank", "energy", "density")}
        if sum(value is not None for value in given.values()) != 1:
            raise InvalidInput("compress", given, "one of rank, energy and density")
        for name in ("rank", "max_rank"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise InvalidInput(f"compress.{name}", value, "a positive integer")
        for name in ("energy", "density"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value <= 1):
                raise InvalidInput(f"compress.{name}", value, "a share, above 0 and at most 1")
        below = self.sparse_below
        # true is an integer to Python, and NaN is in no range
        if isinstance(below, bool) or not (isinstance(below, int | float) and 0 <= below <= 1):
            raise InvalidInput("compress.sparse_below", below, "a share, from 0 to 1")

    @property
    def most_ranks(self) -> int | None:
        return self.rank if self.rank is not None else self.max_rank

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value not in (None, 0.0)}


@dataclass(frozen=True, eq=False)
class Compressed:
    """Terms, and the Frobenius norm of what they lack of the matrix; `norm` is their own, where it is known."""

    low_rank: LowRank | None
    sparse: Sparse | None
    error: float
    norm: float | None = None


def compress(merged: Result, rule: Compress | None, workspace: Workspace) -> Compressed:
    """A matrix, float32; without a rule it becomes sparse, exactly."""
    if isinstance(merged, Combination):
        if rule is None:
            return _combined(merged, workspace.lasting)
        merged = merged.dense(workspace.matrix("result", merged.shape))
    return compress_dense(merged, rule, workspace.lasting)


def _combined(merged: Combination, empty: Empty) -> Compressed:
    shape = (merged.shape[0], merged.shape[1])
    indices, values, squared = merged.sparse(index_dtype(shape), empty)
    sparse = Sparse(indices, values, shape, ordered=True) if values.numel() else None
    return Compressed(None, sparse, 0.0, math.sqrt(squared))


def compress_dense(change_OI: torch.Tensor, rule: Compress | None, empty: Empty = _empty) -> Compressed:
    """A matrix, float32; without a rule it becomes sparse, exactly. `empty` gives memory for what is sparse."""
    count = _count(change_OI)
    if not count:
        return Compressed(None, None, 0.0)
    n = change_OI.numel()
    if rule is None or count <= rule.sparse_below * n:
        return Compressed(None, sparse_of(change_OI, count, empty), 0.0)
    if rule.density is not None:
        kept = max(int(rule.density * n), 1)
        if count <= kept:
            return Compressed(None, sparse_of(change_OI, count, empty), 0.0)
        mask = top_mask(change_OI.abs(), kept)
        lost = float(change_OI.masked_fill(mask, 0).double().norm())
        return Compressed(None, sparse_of(change_OI * mask, kept, empty), lost)
    return approximate(change_OI, rule)


def compress_low_rank(term: LowRank, rule: Compress, grams: Grams | None = None) -> Compressed:
    """A sum of low-rank terms: the best there is. `grams` are those of the term, if somebody has them."""
    if rule.energy is None and rule.most_ranks is None:
        return Compressed(term, None, 0.0)
    if rule.rank is not None:
        return Compressed(term, None, 0.0) if term.rank <= rule.rank else _recompressed(term, grams, rank=rule.rank)
    most = rule.most_ranks
    if most is not None and term.rank <= most:
        return Compressed(term, None, 0.0)
    smaller = recompress(term, energy=rule.energy, grams=grams)
    if most is not None and smaller.term.rank > most:
        return _recompressed(term, grams, rank=most)
    return Compressed(smaller.term, None, smaller.error)


def _recompressed(term: LowRank, grams: Grams | None, *, rank: int) -> Compressed:
    smaller = recompress(term, rank=rank, grams=grams)
    return Compressed(smaller.term, None, smaller.error)


def _count(change_OI: torch.Tensor) -> int:
    return merging.count_nonzero(change_OI) if merging.takes(change_OI) else int(torch.count_nonzero(change_OI))


def sparse_of(change_OI: torch.Tensor, count: int, empty: Empty) -> Sparse:
    """The non-zero values of a matrix, so many, at their places."""
    shape = (change_OI.shape[0], change_OI.shape[1])
    if merging.takes(change_OI):
        indices, values = empty(count, index_dtype(shape)), empty(count, torch.float32)
        merging.gather(change_OI, indices, values)
    else:
        flat = change_OI.reshape(-1)
        places = flat.nonzero().flatten()
        indices, values = places.to(index_dtype(shape)), flat[places]
    return Sparse(indices, values, shape, ordered=True)


def approximate(change_OI: torch.Tensor, rule: Compress) -> Compressed:
    """A low-rank matrix near a dense one, in float32.

    Where the rank is bounded well below the size, by subspace iteration from a fixed random start (Halko, Martinsson
    and Tropp 2011, algorithm 4.4): at worst a little above the least error there is. Else exactly, by the
    eigenvectors of the smaller of D Dᵀ and Dᵀ D in float64. The error is that of the matrix returned either way.
    """
    wide = change_OI.shape[0] <= change_OI.shape[1]
    d_SL = change_OI if wide else change_OI.t()
    most = rule.most_ranks
    if most is not None and 3 * (most + _OVERSAMPLED) < d_SL.shape[0]:
        q_SQ = _range(d_SL, most + _OVERSAMPLED)
        projected_QL = (q_SQ.t() @ d_SL).double()
        squares, vectors = torch.linalg.eigh(projected_QL @ projected_QL.t())
        basis_SQ = q_SQ.double() @ vectors.flip(1)
    else:
        squares, vectors = torch.linalg.eigh(d_SL.double() @ d_SL.double().t())
        basis_SQ = vectors.flip(1)
    whole = _squared(d_SL)
    kept_squares = squares.flip(0).clamp(min=0)
    kept = _rank(kept_squares, whole, rule)
    root_R = kept_squares[:kept].sqrt().sqrt()
    u_SR = basis_SQ[:, :kept].float()
    right_RL = u_SR.t() @ d_SL
    left, right = u_SR * root_R, right_RL / torch.where(root_R > 0, root_R, 1)[:, None]
    a, b = (right, left) if wide else (left.t(), right.t())
    error = math.sqrt(max(whole - _squared(right_RL), 0.0))
    return Compressed(LowRank(a.float().contiguous(), b.float().contiguous(), 1.0), None, error)


def _range(d_SL: torch.Tensor, directions: int) -> torch.Tensor:
    """An orthonormal basis that holds most of what D maps to, [S, Q]."""
    y_SQ = d_SL @ _start(d_SL.shape[1], directions)
    for _ in range(_POWER_STEPS):
        y_SQ = d_SL @ (d_SL.t() @ torch.linalg.qr(y_SQ)[0])
    q_SQ, _ = torch.linalg.qr(y_SQ)
    basis_SQ: torch.Tensor = q_SQ
    return basis_SQ


@lru_cache(maxsize=8)
def _start(length: int, directions: int) -> torch.Tensor:
    """Random directions, [L, Q]: the same for every matrix of one shape, and drawn once."""
    return normal(stream(0, "range"), length * directions).float().view(length, directions)


def _squared(matrix: torch.Tensor) -> float:
    """The sum of the squares, in float64, without a copy in float64."""
    return float(torch.linalg.vector_norm(matrix, dtype=torch.float64)) ** 2


def _rank(squares: torch.Tensor, whole: float, rule: Compress) -> int:
    present = max(int((squares > 1e-14 * whole).sum()), 1)
    if rule.rank is not None:
        return min(kept_rank(squares, rank=rule.rank, energy=None), present)
    enough = int((squares.cumsum(0) < (rule.energy or 1) * whole).sum()) + 1
    return min(enough, rule.max_rank or enough, present)
