"""The line of design.md section 3 in plain torch: what every other implementation is held against.

    y_t += sum_i w_ti [u_i * (y_t - b0) + B_i (A_i x_t) + S_i x_t + c_i]

Shape suffixes: T tokens, G tokens of one group, I input features, O output features of the layer, P of one slice.
"""

from collections.abc import Sequence

import torch

from polyad.kernels.batch import Batch
from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.terms import SparseRows, Terms

Packed = Sequence[Terms | None]


class ReferenceLayer:
    """The slots of one layer, in tensors as they come."""

    def __init__(self, shape: LayerShape, slots: int) -> None:
        self._shape = shape
        self._slots: list[Packed] = [()] * slots

    @staticmethod
    def pack(shape: LayerShape, slices: Packed) -> Packed:
        return [terms if terms is None else terms.copied() for terms in slices]

    def fill(self, slot: int, packed: Packed) -> None:
        self._slots[slot] = packed

    def clear(self, slot: int) -> None:
        self._slots[slot] = ()

    def add(self, y_TO: torch.Tensor, x_TI: torch.Tensor, bias_O: torch.Tensor | None, batch: Batch) -> None:
        """Add to y = W x + b0, in place, what the batch's slots change: summed in float32, rounded once."""
        wide = torch.promote_types(y_TO.dtype, torch.float32)
        sum_TO = torch.zeros(y_TO.shape, dtype=wide, device=y_TO.device)
        for group in batch.groups:
            tokens_G, weights_G1 = group.tokens_G.long(), group.weights_G.to(wide).unsqueeze(1)
            x_GI, y_GO = x_TI[tokens_G].to(wide), y_TO[tokens_G].to(wide)
            if bias_O is not None:
                y_GO -= bias_O
            for terms, columns in zip(self._slots[group.slot], self._shape.columns, strict=False):
                if terms is not None:
                    sum_TO[tokens_G, columns] += weights_G1 * _change(terms, x_GI, y_GO[:, columns])
        used_U = batch.weights_TS.any(1).nonzero().flatten()
        y_TO[used_U] = (y_TO[used_U].to(wide) + sum_TO[used_U]).to(y_TO.dtype)


def _change(terms: Terms, x_GI: torch.Tensor, y_GP: torch.Tensor) -> torch.Tensor:
    change_GP = torch.zeros_like(y_GP)
    if terms.row_scale_O is not None:
        change_GP += y_GP * terms.row_scale_O
    if terms.a_RI is not None and terms.b_OR is not None:
        change_GP += (x_GI @ terms.a_RI.to(x_GI.dtype).t()) @ terms.b_OR.to(x_GI.dtype).t()
    if terms.sparse is not None:
        change_GP += x_GI @ _dense(terms.sparse, x_GI).t()
    if terms.bias_O is not None:
        change_GP += terms.bias_O
    return change_GP


def _dense(sparse: SparseRows, x_GI: torch.Tensor) -> torch.Tensor:
    counts_O = sparse.starts_O1.diff()
    rows_N = torch.repeat_interleave(torch.arange(len(counts_O), device=x_GI.device), counts_O)
    dense_OI = torch.zeros(len(counts_O), x_GI.shape[1], dtype=x_GI.dtype, device=x_GI.device)
    dense_OI[rows_N, sparse.columns_N.long()] = sparse.values_N.to(x_GI.dtype)
    return dense_OI
