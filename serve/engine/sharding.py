"""Which part of a module's change lies on this rank of a tensor-parallel group, and where in the engine's fused layer.

A column-parallel layer has some of the output features and all inputs; a row-parallel layer has some of the inputs and
all outputs, which are then summed over the ranks: there the first rank alone adds what is added once.

Shape suffixes: O output features and I input features of the whole module, P and J of this rank, R rank, N values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from vllm.model_executor.layers.linear import ColumnParallelLinear, LinearBase, QKVParallelLinear, RowParallelLinear

from polyad.adapters_store.delta import ModuleDelta, Sparse
from polyad.kernels.terms import SparseRows, Terms


@dataclass(frozen=True)
class Placement:
    """One module of the model in a layer of the engine: its output features, in the layer's order, and its inputs."""

    module: str
    rows: tuple[range, ...]
    columns: range
    adds_bias: bool

    @property
    def width(self) -> int:
        return sum(len(rows) for rows in self.rows)

    def local(self, change: ModuleDelta, dtype: torch.dtype) -> Terms:
        """This rank's part; factors may be the change's. Raises ValueError for values that overflow in `dtype`."""
        a_RJ, b_PR = self._factors(change, dtype)
        return Terms(
            a_RI=a_RJ,
            b_OR=b_PR,
            sparse=None if change.sparse is None else self._sparse(change.sparse),
            row_scale_O=self._outputs(change.row_scale),
            column_scale_I=None if change.column_scale is None else self._inputs(change.column_scale).float().clone(),
            bias_O=self._outputs(change.bias) if self.adds_bias else None,
        )

    def _factors(self, change: ModuleDelta, dtype: torch.dtype) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        term = change.low_rank
        if term is None:
            return None, None
        a_RJ = self._finite(self._inputs(term.a), dtype)
        b_PR = self._cut(term.b)
        return a_RJ, self._finite(b_PR if term.scale == 1 else b_PR.float() * term.scale, dtype, term.scale != 1)

    def _finite(self, factor: torch.Tensor, dtype: torch.dtype, scaled: bool = False) -> torch.Tensor:
        converted = factor.to(dtype)
        # Admission saw finite values; scaled, or in a narrower dtype than they were stored in, they may be none.
        if (scaled or dtype != factor.dtype) and not all(map(torch.isfinite, converted.aminmax())):
            raise ValueError(f"{self.module}: values overflow in the engine's {dtype}")
        return converted

    def _outputs(self, vector_O: torch.Tensor | None) -> torch.Tensor | None:
        return None if vector_O is None else self._cut(vector_O).to(torch.float32, copy=True)

    def _cut(self, tensor_O: torch.Tensor) -> torch.Tensor:
        """The features of this rank, along the first dimension."""
        parts = [tensor_O[rows.start : rows.stop] for rows in self.rows]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _inputs(self, tensor_I: torch.Tensor) -> torch.Tensor:
        return tensor_I[..., self.columns.start : self.columns.stop]

    def _sparse(self, sparse: Sparse) -> SparseRows:
        outputs, inputs = sparse.shape
        place_O = torch.full((outputs,), -1, dtype=torch.int64)
        for start, rows in zip(accumulate(map(len, self.rows), initial=0), self.rows, strict=False):
            place_O[rows.start : rows.stop] = torch.arange(start, start + len(rows))
        indices_N = sparse.indices.long()
        row_N, column_N = place_O[indices_N // inputs], indices_N % inputs - self.columns.start
        here_N = (row_N >= 0) & (column_N >= 0) & (column_N < len(self.columns))
        row_N, column_N, values_N = row_N[here_N], column_N[here_N], sparse.values[here_N].float()
        # Stable, so that columns go on ascending within a row.
        order_N = torch.argsort(row_N, stable=True)
        starts_P1 = torch.zeros(self.width + 1, dtype=torch.int32)
        starts_P1[1:] = torch.bincount(row_N, minlength=self.width).cumsum(0)
        return SparseRows(starts_P1, column_N[order_N].int(), values_N[order_N])


def place(layer: LinearBase, modules: Sequence[str]) -> list[Placement]:
    """Where the modules that a layer is made of lie in it on this rank; empty if polyad cannot tell."""
    parts = list(_parts(layer))
    if len(modules) not in (1, len(parts)):
        return []
    columns, adds_bias = _inputs_of(layer)
    if len(modules) == len(parts):
        return [
            Placement(module, (_range(begin, size),), columns, adds_bias)
            for module, (_, begin, size) in zip(modules, parts, strict=True)
        ]
    # The model keeps in one module what the engine splits, too.
    offsets = accumulate((whole for whole, _, _ in parts), initial=0)
    rows = tuple(_range(offset + begin, size) for offset, (_, begin, size) in zip(offsets, parts, strict=False))
    return [Placement(modules[0], rows, columns, adds_bias)]


def _range(begin: int, size: int) -> range:
    return range(begin, begin + size)


def _parts(layer: Any) -> Iterator[tuple[int, int, int]]:
    """Of each part of the output: its size in the whole model, and where this rank's share begins, and its size."""
    if isinstance(layer, QKVParallelLinear):
        for index, size in enumerate(layer.output_partition_sizes):
            # Where there are fewer heads of keys and values than ranks, several ranks hold the same ones.
            copies = 1 if index == 0 else layer.num_kv_head_replicas
            yield size * layer.tp_size // copies, layer.tp_rank // copies * size, size
    elif isinstance(layer, ColumnParallelLinear):
        for size in layer.output_partition_sizes:
            yield size * layer.tp_size, layer.tp_rank * size, size
    else:
        for size in layer.output_partition_sizes:
            yield size, 0, size


def _inputs_of(layer: Any) -> tuple[range, bool]:
    if isinstance(layer, RowParallelLinear):
        size = layer.input_size_per_partition
        return _range(layer.tp_rank * size, size), layer.tp_rank == 0
    return range(layer.input_size), True
