"""The slots of one layer on a GPU: rows of pointers to the deltas' own tensors, read by the Triton kernels.

Nothing is padded to the largest rank: a slot's factors have its own ranks, and blocks beyond them are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton

from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.terms import Terms
from polyad.kernels.triton_batch import TILE, TritonBatch
from polyad.kernels.triton_kernels import expand, shrink

_SLOT_FIELDS, _TERM_FIELDS = 2, 8
_INPUT_BLOCK, _RANK_BLOCK, _COLUMN_BLOCK = 128, 16, 64
# A decoding step has too few tiles to keep a GPU busy, unless each is cut along the inputs.
_SPLIT_INPUTS = 1024


@dataclass(frozen=True, eq=False)
class Packed:
    """A slot's tensors in pinned memory. `fields` says which of them a pointer in the row is to, if it is one."""

    fields: Sequence[int | torch.Tensor]
    ranks: int


class TritonLayer:
    """Filling copies a delta's tensors to the device without waiting for it."""

    def __init__(self, shape: LayerShape, slots: int) -> None:
        self._shape = shape
        self._width = _SLOT_FIELDS + len(shape.widths) * _TERM_FIELDS
        self._table = torch.zeros(slots, self._width, dtype=torch.int64, device=shape.device)
        self._blocks = torch.tensor(
            [
                [index, column, width, begin]
                for index, (width, begin) in enumerate(zip(shape.widths, shape.begins, strict=False))
                for column in range(0, width, _COLUMN_BLOCK)
            ],
            dtype=torch.int32,
            device=shape.device,
        )
        self._held: dict[int, tuple[torch.Tensor, ...]] = {}
        self._ranks = [0] * slots

    @staticmethod
    def pack(shape: LayerShape, slices: Sequence[Terms | None]) -> Packed:
        present = [terms if terms is not None and terms.adds else None for terms in slices]
        factors = [terms.a_RI for terms in present if terms is not None and terms.a_RI is not None]
        ranks = sum(map(len, factors))
        fields: list[int | torch.Tensor] = [ranks, _pinned(torch.cat(factors), shape) if factors else 0]
        begin = 0
        for terms in present:
            fields += [0] * _TERM_FIELDS if terms is None else _term_fields(terms, begin, shape)
            begin += 0 if terms is None else terms.rank
        return Packed(fields, ranks)

    def fill(self, slot: int, packed: Packed) -> None:
        device = self._shape.device
        on_device = [
            field.to(device, non_blocking=True) if isinstance(field, torch.Tensor) else field for field in packed.fields
        ]
        row = [field.data_ptr() if isinstance(field, torch.Tensor) else field for field in on_device]
        self._table[slot].copy_(_pin(torch.tensor(row, dtype=torch.int64), device), non_blocking=True)
        self._held[slot] = tuple(field for field in on_device if isinstance(field, torch.Tensor))
        self._ranks[slot] = packed.ranks

    def clear(self, slot: int) -> None:
        self._table[slot].zero_()
        self._held.pop(slot, None)
        self._ranks[slot] = 0

    def add(self, y_TO: torch.Tensor, x_TI: torch.Tensor, bias_O: torch.Tensor | None, batch: TritonBatch) -> None:
        """Add to y = W x + b0, in place, what the batch's slots change."""
        tiles = batch.tensors
        ranks = len(self._shape.widths) * self._shape.max_rank if batch.recorded else max(self._ranks)
        splits = triton.cdiv(self._shape.inputs, _SPLIT_INPUTS)
        v = y_TO.new_empty(splits, batch.entry_count, TILE, max(ranks, 1), dtype=torch.float32)
        slots = (self._table, self._table.stride(0))
        if ranks:
            shrink[(batch.entry_count, triton.cdiv(ranks, _RANK_BLOCK), splits)](
                x_TI, x_TI.stride(0), self._shape.inputs, *slots,
                tiles.tokens_T, tiles.entry_tiles_E, tiles.entry_slots_E, tiles.entry_count,
                v, *v.stride()[:3], _SPLIT_INPUTS,
                B=TILE, K=_INPUT_BLOCK, R=_RANK_BLOCK,
            )  # fmt: skip
        expand[(batch.tile_count, len(self._blocks))](
            y_TO, y_TO.stride(0), x_TI, x_TI.stride(0), bias_O if bias_O is not None else y_TO, *slots, self._blocks,
            tiles.tokens_T, tiles.weights_TS, tiles.weights_TS.stride(0), tiles.begins_N, tiles.entry_slots_E,
            v, *v.stride()[:3], splits,
            HAS_BIAS=bias_O is not None, B=TILE, R=_RANK_BLOCK, O=_COLUMN_BLOCK,
        )  # fmt: skip


def _term_fields(terms: Terms, begin: int, shape: LayerShape) -> list[int | torch.Tensor]:
    sparse = terms.sparse
    rows: list[Any] = [None] * 3 if sparse is None else [sparse.starts_O1, sparse.columns_N, sparse.values_N]
    tensors = [terms.row_scale_O, terms.bias_O, *rows]
    return [
        terms.rank,
        begin,
        0 if terms.b_OR is None else _pinned(terms.b_OR, shape),
        *(0 if tensor is None else _pin(tensor.contiguous(), shape.device) for tensor in tensors),
    ]


def _pinned(factor: torch.Tensor, shape: LayerShape) -> torch.Tensor:
    return _pin(factor.to(shape.dtype).contiguous(), shape.device)


def _pin(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return tensor.pin_memory() if device.type == "cuda" else tensor
