"""Inner products and norms of deltas, from their terms: dW is never formed (factor arithmetic of weight merges).

With [dW | db] as one matrix, the inner product is the sum of the products of their elements (Frobenius).
Everything is summed in float64. Shape suffixes: R, Q ranks, I input features, O output features, K stored values.
"""

import math
from collections.abc import Callable, Sequence

import torch

from polyad.adapters_store.delta.delta import Delta
from polyad.adapters_store.delta.dense_form import checked_weight, scaled_weight
from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.delta.sparse import Sparse
from polyad.kernels import merging

_BLOCK_ELEMENTS = 2**21

Weights = Callable[[str], torch.Tensor]


def inner_product(one: Delta, other: Delta, weights: Weights | None = None) -> float:
    """Over all modules. `weights` gives the base's W by module path; it is asked only where scales need it.

    Raises InvalidInput where they do and it is None.
    """
    total = 0.0
    for module in sorted(one.modules.keys() & other.modules.keys()):
        changes = one.modules[module], other.modules[module]
        needed = weights is not None and any(change.scales_weight for change in changes)
        total += module_inner_product(*changes, weights(module) if weights is not None and needed else None)
    return total


def norm(delta: Delta, weights: Weights | None = None) -> float:
    """The square root of a delta's inner product with itself; `weights` as there."""
    return math.sqrt(max(inner_product(delta, delta, weights), 0.0))


def module_inner_product(one: ModuleDelta, other: ModuleDelta, weight: torch.Tensor | None = None) -> float:
    """Of one module. `weight` is the base's W, [out, in]; raises InvalidInput if a scale term needs it."""
    product = _low_rank_product(one.low_rank, other.low_rank) + _sparse_product(one.sparse, other.sparse)
    product += _mixed_product(one.low_rank, other.sparse) + _mixed_product(other.low_rank, one.sparse)
    if one.bias is not None and other.bias is not None:
        product += float(one.bias.double() @ other.bias.double())
    if one.scales_weight:
        product += _scaled_product(one, other, weight)
    if other.scales_weight:
        # <E, E'> was counted with the first
        product += _scaled_product(other, one, weight, with_scales=False)
    return product


def module_inner_products(
    changes: Sequence[ModuleDelta | None], weight: torch.Tensor | None = None
) -> list[list[float]]:
    """Of each change of one module with each, 0 for None. `weight` as in `module_inner_product`."""
    found = [[0.0] * len(changes) for _ in changes]
    for one, first in enumerate(changes):
        for other, second in enumerate(changes[one:], one):
            if first is not None and second is not None:
                found[one][other] = found[other][one] = module_inner_product(first, second, weight)
    return found


def module_norm(change: ModuleDelta, weight: torch.Tensor | None = None) -> float:
    """The norm of one module's change; `weight` as in `module_inner_product`."""
    return math.sqrt(max(module_inner_product(change, change, weight), 0.0))


def _low_rank_product(one: LowRank | None, other: LowRank | None) -> float:
    """tr((B'ᵀ B)(A A'ᵀ))"""
    if one is None or other is None:
        return 0.0
    b_QR = other.b.double().t() @ one.b.double()
    a_QR = other.a.double() @ one.a.double().t()
    return one.scale * other.scale * float((b_QR * a_QR).sum())


def _sparse_product(one: Sparse | None, other: Sparse | None) -> float:
    if one is None or other is None or not one.count or not other.count:
        return 0.0
    if one.indices is other.indices:
        if one.values is other.values and merging.takes(one.values):
            return merging.squared(one.values)
        return float(one.values.double() @ other.values.double())
    places = torch.searchsorted(other.indices, one.indices).clamp_(max=other.count - 1)
    shared = other.indices[places] == one.indices
    return float((one.values.double() * other.values[places].double() * shared).sum())


def _mixed_product(low_rank: LowRank | None, sparse: Sparse | None) -> float:
    if low_rank is None or sparse is None:
        return 0.0
    total = 0.0
    rows_K, columns_K = sparse.coordinates()
    a_IR = low_rank.a.t()
    step = max(_BLOCK_ELEMENTS // low_rank.rank, 1)
    for start in range(0, sparse.count, step):
        part = slice(start, start + step)
        products_K = (low_rank.b[rows_K[part]].double() * a_IR[columns_K[part]].double()).sum(1)
        total += float(products_K @ sparse.values[part].double())
    return low_rank.scale * total


def _scaled_product(
    one: ModuleDelta, other: ModuleDelta, weight: torch.Tensor | None, *, with_scales: bool = True
) -> float:
    """<E, dW'> with E = diag(u) W + W diag(v); without the scale terms of dW' if they are not wanted."""
    w_OI = checked_weight(one, checked_weight(other, weight))
    total = 0.0
    step = max(_BLOCK_ELEMENTS // w_OI.shape[1], 1)
    for start in range(0, w_OI.shape[0], step):
        rows = slice(start, start + step)
        e_OI = scaled_weight(one, w_OI[rows], torch.float64, rows)
        if with_scales and other.scales_weight:
            total += float((e_OI * scaled_weight(other, w_OI[rows], torch.float64, rows)).sum())
        if other.low_rank is not None:
            e_OR = e_OI @ other.low_rank.a.double().t()
            total += other.low_rank.scale * float((e_OR * other.low_rank.b[rows].double()).sum())
        if other.sparse is not None:
            total += _sparse_rows_product(e_OI, other.sparse, start)
    return total


def _sparse_rows_product(e_OI: torch.Tensor, sparse: Sparse, first_row: int) -> float:
    begin = first_row * sparse.shape[1]
    bounds = torch.tensor([begin, begin + e_OI.numel()], dtype=sparse.indices.dtype)
    start, stop = torch.searchsorted(sparse.indices, bounds).tolist()
    flat = sparse.indices[start:stop].long() - begin
    return float(e_OI.flatten()[flat] @ sparse.values[start:stop].double())
