"""The same on CPU: one native call per layer and step (csrc/delta.cpp), in bf16 or float32, sums in float32.

A slot is a row of pointers to packed factors, so filling one copies nothing. Packed factors lie in panels as wide as
the vectors of the widest instruction set that the machine has. Where it multiplies pairs of bf16, these lie together,
and what A makes of x is rounded to bf16 before B: half the time, for a rounding much smaller than that of the sum.

Shape suffixes: P panels, D padded depth, L lanes of a vector; else as in reference.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from polyad.kernels import _delta
from polyad.kernels.batch import Batch, Batches
from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.terms import Terms

DTYPES = (torch.float32, torch.bfloat16)


@dataclass(frozen=True)
class Instructions:
    """A vector's floats, and how many bf16 of a row of weights lie together."""

    lanes: int
    together: int


def supported() -> dict[str, Instructions]:
    """What this machine has, by name, the fastest first."""
    pairs = {name: Instructions(lanes, 2) for name, lanes in _delta.supported(True).items()}
    return pairs | {name: Instructions(lanes, 1) for name, lanes in _delta.supported(False).items()}


INSTRUCTIONS = next(iter(supported().values()))

# The layout of the tables; csrc/delta.cpp has the same names.
_SLOT_FIELDS = _SLOT_USED, _SLOT_RANKS, _SLOT_A, _SLOT_SPARSE = range(4)
_TERM_FIELDS = 8


@dataclass(frozen=True, eq=False)
class Packed:
    """A slot's row of the table, and the tensors that it points to."""

    row: torch.Tensor
    tensors: tuple[torch.Tensor, ...]


class CpuBatch(Batch):
    """A batch with the table of its groups."""

    def __init__(self, weights_TS: torch.Tensor) -> None:
        super().__init__(weights_TS)
        rows = [
            [group.slot, len(group.tokens_G), group.tokens_G.data_ptr(), group.weights_G.data_ptr()]
            for group in self.groups
        ]
        self._table = torch.tensor(rows, dtype=torch.int64)
        self.pointers = self._table.data_ptr(), len(rows)


class CpuBatches(Batches):
    """Batches with their tables."""

    def weighted(self, weights_TS: torch.Tensor) -> Batch:
        return CpuBatch(weights_TS)


class CpuLayer:
    """The slots of one layer."""

    def __init__(self, shape: LayerShape, slots: int) -> None:
        self._header = torch.tensor(
            [shape.inputs, shape.dtype == torch.bfloat16, len(shape.widths), *shape.begins], dtype=torch.int64
        )
        self._table = torch.zeros(slots, len(_SLOT_FIELDS) + len(shape.widths) * _TERM_FIELDS, dtype=torch.int64)
        self._held: list[Packed | None] = [None] * slots
        self._bias_O: torch.Tensor | None = None
        self._pointers = self._header.data_ptr(), self._table.data_ptr()

    @staticmethod
    def pack(shape: LayerShape, slices: Sequence[Terms | None]) -> Packed:
        """Bring a delta's slices into the native layout; safe in any thread."""
        return _Packing(shape, slices).packed()

    def fill(self, slot: int, packed: Packed) -> None:
        self._table[slot] = packed.row
        self._held[slot] = packed

    def clear(self, slot: int) -> None:
        self._table[slot] = 0
        self._held[slot] = None

    def add(self, y_TO: torch.Tensor, x_TI: torch.Tensor, bias_O: torch.Tensor | None, batch: CpuBatch) -> None:
        """Add to y = W x + b0, in place, what the batch's slots change; rows of both may be strided."""
        if bias_O is not None and self._bias_O is None:
            self._bias_O = bias_O.float()
        _delta.apply(
            INSTRUCTIONS.lanes,
            INSTRUCTIONS.together,
            *self._pointers,
            *batch.pointers,
            batch.tokens,
            y_TO.data_ptr(),
            y_TO.stride(0),
            x_TI.data_ptr(),
            x_TI.stride(0),
            0 if bias_O is None or self._bias_O is None else self._bias_O.data_ptr(),
        )


class _Packing:
    """One slot's row in the making."""

    def __init__(self, shape: LayerShape, slices: Sequence[Terms | None]) -> None:
        self._shape = shape
        self._slices = [terms if terms is not None and terms.adds else None for terms in slices]
        self._tensors: list[torch.Tensor] = []

    def packed(self) -> Packed:
        present = [terms for terms in self._slices if terms is not None]
        factors = [terms.a_RI for terms in present if terms.a_RI is not None]
        a_PDL = self._panels(factors) if factors else None
        fields = [
            bool(present),
            0 if a_PDL is None else a_PDL.shape[0] * INSTRUCTIONS.lanes,
            self._pointer(a_PDL),
            any(terms.sparse is not None for terms in present),
        ]
        begin = 0
        for terms in self._slices:
            fields += [0] * _TERM_FIELDS if terms is None else self._term_fields(terms, begin)
            begin += 0 if terms is None else terms.rank
        return Packed(torch.tensor(fields, dtype=torch.int64), tuple(self._tensors))

    def _term_fields(self, terms: Terms, begin: int) -> list[int]:
        b_PDL = None if terms.b_OR is None else self._panels([terms.b_OR])
        sparse = terms.sparse
        rows = (sparse.starts_O1, sparse.columns_N, sparse.values_N) if sparse is not None else (None, None, None)
        return [
            terms.rank,
            begin,
            self._pointer(b_PDL),
            self._pointer(terms.row_scale_O, torch.float32),
            self._pointer(terms.bias_O, torch.float32),
            *map(self._pointer, rows, (torch.int32, torch.int32, torch.float32)),
        ]

    def _panels(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The rows of all parts, [rows, depth], as [panels, depth, lanes], padded with zeros."""
        rows, depth, dtype = sum(map(len, parts)), parts[0].shape[1], self._shape.dtype
        lanes, together = INSTRUCTIONS.lanes, INSTRUCTIONS.together if dtype == torch.bfloat16 else 1
        panels_PDL = torch.zeros(-(-rows // lanes), -(-depth // together) * together, lanes, dtype=dtype)
        begin = 0
        for part in parts:
            own = part.to(dtype)
            own = own if own.stride(1) == 1 else own.contiguous()
            _delta.lay(
                lanes,
                together,
                panels_PDL.data_ptr(),
                begin,
                own.data_ptr(),
                len(own),
                depth,
                own.stride(0),
                dtype.itemsize,
            )
            begin += len(own)
        return panels_PDL

    def _pointer(self, tensor: torch.Tensor | None, dtype: torch.dtype | None = None) -> int:
        if tensor is None:
            return 0
        self._tensors.append(tensor.to(dtype or tensor.dtype).contiguous())
        return self._tensors[-1].data_ptr()
