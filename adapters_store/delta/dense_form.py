"""A delta's matrices written out, for tests and for merges that cannot do without.

Shape suffixes: O output features, I input features.
"""

import torch

from polyad.adapters_store.delta.low_rank import LowRank
from polyad.adapters_store.delta.module_delta import ModuleDelta
from polyad.adapters_store.delta.sparse import Sparse
from polyad.adapters_store.errors import InvalidInput


def dense(
    change: ModuleDelta, weight: torch.Tensor | None = None, *, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """dW of shape [out, in] and db of shape [out], computed in `dtype`; None where nothing is changed.

    `weight`, the base's W of shape [out, in], is needed by row and column scales alone. Raises InvalidInput without it,
    or if its shape is another.
    """
    terms = []
    if change.low_rank is not None:
        terms.append(_low_rank(change.low_rank, dtype))
    if change.sparse is not None:
        terms.append(_sparse(change.sparse, dtype))
    if change.scales_weight:
        terms.append(scaled_weight(change, checked_weight(change, weight), dtype))
    change_OI = sum(terms[1:], terms[0]) if terms else None
    return change_OI, None if change.bias is None else change.bias.to(dtype)


def scaled_weight(
    change: ModuleDelta, w_OI: torch.Tensor, dtype: torch.dtype, rows: slice = slice(None)
) -> torch.Tensor:
    """diag(u) W + W diag(v); `w_OI` may be some rows of W, `rows` says which."""
    factor_OI = torch.zeros((), dtype=dtype)
    if change.row_scale is not None:
        factor_OI = factor_OI + change.row_scale[rows].to(dtype)[:, None]
    if change.column_scale is not None:
        factor_OI = factor_OI + change.column_scale.to(dtype)
    return factor_OI * w_OI.to(dtype)


def checked_weight(change: ModuleDelta, weight: torch.Tensor | None) -> torch.Tensor:
    """`weight`, if it is the W that the scales of `change` are for. Raises InvalidInput."""
    if weight is None:
        raise InvalidInput("weight", None, "the base model's weight: row and column scales are relative to it")
    out_features, in_features = change.out_features, change.in_features
    shape = tuple(weight.shape)
    if weight.dim() != 2 or out_features not in (None, shape[0]) or in_features not in (None, shape[1]):
        raise InvalidInput("weight", shape, f"{[out_features or 'out', in_features or 'in']}, as the change has")
    return weight


def _low_rank(term: LowRank, dtype: torch.dtype) -> torch.Tensor:
    return (term.b.to(dtype) * term.scale) @ term.a.to(dtype)


def _sparse(term: Sparse, dtype: torch.dtype) -> torch.Tensor:
    flat = torch.zeros(term.shape[0] * term.shape[1], dtype=dtype, device=term.values.device)
    flat[term.indices.long()] = term.values.to(dtype)
    return flat.view(term.shape)
