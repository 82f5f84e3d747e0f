"""Sparse values from outside, brought into the delta's order."""

import torch

from polyad.adapters_store.delta import Sparse
from polyad.adapters_store.delta.module_source import DTYPE_NAMES
from polyad.adapters_store.delta.sparse import index_dtype
from polyad.adapters_store.errors import InvalidAdapter
from polyad.adapters_store.formats.conversion import Form


def sorted_sparse(field: str, indices: torch.Tensor, values: torch.Tensor, shape: tuple[int, int]) -> Sparse:
    """`indices` are flat and row-major, in any order. Raises InvalidAdapter for one out of range, or given twice."""
    ordered, order = indices.long().sort()
    end = shape[0] * shape[1]
    if len(ordered) and not 0 <= int(ordered[0]) <= int(ordered[-1]) < end:
        raise InvalidAdapter(field, [int(ordered[0]), int(ordered[-1])], f"indices from 0 to {end - 1}")
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(again):
        raise InvalidAdapter(field, int(again[0]), "each index once")
    return Sparse(ordered.to(index_dtype(shape)), values[order], shape)


def sparse_forms(count: int, dtype: str, shape: tuple[int, int]) -> dict[str, Form]:
    """The form of a sparse term with `count` values of a dtype of the file."""
    return {"sparse.indices": (DTYPE_NAMES[index_dtype(shape)], (count,)), "sparse.values": (dtype, (count,))}
