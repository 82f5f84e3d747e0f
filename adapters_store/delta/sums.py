"""Sums of deltas: exact for every kind and every mixture of kinds, and nothing is multiplied out.

Shape suffixes: R rank, I input features, O output features, K stored values.
"""

import math
from collections.abc import Sequence

import torch

from polyad.adapters_store.delta.delta import Delta
from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.delta.sparse import Sparse
from polyad.adapters_store.errors import InvalidInput
from polyad.kernels import factors

_Weighted = tuple[float, ModuleDelta]


def scale(delta: Delta, weight: float) -> Delta:
    """weight * delta. Raises InvalidInput for a weight that is not finite."""
    return weighted_sum([delta], [weight])


def weighted_sum(deltas: Sequence[Delta], weights: Sequence[float]) -> Delta:
    """The sum of weight * (dW, db), module by module; a module that a delta lacks is unchanged by it.

    Low-rank terms are put side by side (rank: the sum of ranks), sparse terms united, vectors added. What is computed
    is computed in float32, or float64 where an input has it; a lone low-rank term keeps its factors. Weights may be
    negative and need not sum to 1. Raises InvalidInput for weights that are not finite, or modules of other shapes.
    """
    if len(deltas) != len(weights):
        raise InvalidInput("weights", len(weights), f"{len(deltas)}, one for each delta")
    _check(weights)
    modules: dict[str, list[_Weighted]] = {}
    for delta, weight in zip(deltas, weights, strict=True):
        for module, change in delta.modules.items() if weight else ():
            modules.setdefault(module, []).append((weight, change))
    return Delta({module: _module_sum(module, terms) for module, terms in modules.items()})


def module_sum(module: str, changes: Sequence[ModuleDelta], weights: Sequence[float]) -> ModuleDelta | None:
    """The same of one module; None where nothing has a weight."""
    _check(weights)
    terms = [(weight, change) for weight, change in zip(weights, changes, strict=True) if weight]
    return _module_sum(module, terms) if terms else None


def _check(weights: Sequence[float]) -> None:
    for weight in weights:
        if not math.isfinite(weight):
            raise InvalidInput("weights", weight, "finite numbers")


def _module_sum(module: str, terms: Sequence[_Weighted]) -> ModuleDelta:
    for side in ("out_features", "in_features"):
        sizes = {size for _, change in terms if (size := getattr(change, side)) is not None}
        if len(sizes) > 1:
            raise InvalidInput(f"{module}: {side}", sorted(sizes), "deltas of one base model")
    return ModuleDelta(
        low_rank=_low_rank_sum([(weight, change.low_rank) for weight, change in terms if change.low_rank]),
        sparse=_sparse_sum([(weight, change.sparse) for weight, change in terms if change.sparse]),
        row_scale=_vector_sum([(weight, one) for weight, change in terms if (one := change.row_scale) is not None]),
        column_scale=_vector_sum(
            [(weight, one) for weight, change in terms if (one := change.column_scale) is not None]
        ),
        bias=_vector_sum([(weight, one) for weight, change in terms if (one := change.bias) is not None]),
    )


def _low_rank_sum(terms: Sequence[tuple[float, LowRank]]) -> LowRank | None:
    if not terms:
        return None
    if len(terms) == 1:
        weight, term = terms[0]
        return LowRank(term.a, term.b, weight * term.scale)
    tensors = [tensor for _, term in terms for tensor in (term.a, term.b)]
    if factors.takes(*tensors):
        weighted = [factors.Term(term.a, term.b, weight * term.scale) for weight, term in terms]
        return LowRank(*factors.join(weighted), 1.0)
    dtype = _dtype(tensors)
    a_RI = torch.cat([term.a.to(dtype) for _, term in terms])
    b_OR = torch.cat([term.b.to(dtype) * (weight * term.scale) for weight, term in terms], 1)
    return LowRank(a_RI, b_OR, 1.0)


def _sparse_sum(terms: Sequence[tuple[float, Sparse]]) -> Sparse | None:
    if not terms:
        return None
    dtype = _dtype([term.values for _, term in terms])
    values_K = torch.cat([term.values.to(dtype) * weight for weight, term in terms])
    indices, places = torch.unique(torch.cat([term.indices for _, term in terms]), return_inverse=True)
    summed_K = torch.zeros(len(indices), dtype=dtype, device=values_K.device).index_add_(0, places, values_K)
    return Sparse(indices, summed_K, terms[0][1].shape)


def _vector_sum(terms: Sequence[tuple[float, torch.Tensor]]) -> torch.Tensor | None:
    if not terms:
        return None
    dtype = _dtype([vector for _, vector in terms])
    first, *others = (vector.to(dtype) * weight for weight, vector in terms)
    return sum(others, first)


def _dtype(tensors: Sequence[torch.Tensor]) -> torch.dtype:
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
