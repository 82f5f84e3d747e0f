"""Random deltas, and what a layer with them must give: dense weights for each token, in float64.

Shape suffixes: T tokens, S slots, I input features, O output features.
"""

from collections.abc import Sequence

import torch

from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.terms import SparseRows, Terms

KINDS = ("low_rank", "sparse", "row_scale", "column_scale", "bias")


class Randomness:
    """Reproducible numbers."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def numbers(self, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, generator=self._generator).to(dtype)

    def mask(self, *shape: int, share: float) -> torch.Tensor:
        return torch.rand(*shape, generator=self._generator) < share

    def terms(self, inputs: int, outputs: int, dtype: torch.dtype, kinds: Sequence[str], rank: int = 4) -> Terms:
        """A change of the kinds named, of about the size of what the layer gives for inputs of size one."""
        found: dict[str, object] = {}
        if "low_rank" in kinds:
            found["a_RI"] = (self.numbers(rank, inputs) / inputs**0.5).to(dtype)
            found["b_OR"] = (self.numbers(outputs, rank) / rank**0.5).to(dtype)
        if "sparse" in kinds:
            found["sparse"] = sparse_rows(self.numbers(outputs, inputs) * self.mask(outputs, inputs, share=0.05))
        if "row_scale" in kinds:
            found["row_scale_O"] = self.numbers(outputs)
        if "column_scale" in kinds:
            found["column_scale_I"] = self.numbers(inputs)
        if "bias" in kinds:
            found["bias_O"] = self.numbers(outputs)
        return Terms(**found)  # type: ignore[arg-type]

    def weights(self, tokens: int, slots: int, share: float = 0.5) -> torch.Tensor:
        """[tokens, slots], with zeros, ones and other numbers of both signs; the last slot is never used."""
        weights_TS = self.numbers(tokens, slots) * self.mask(tokens, slots, share=share)
        weights_TS[weights_TS > 1] = 1
        weights_TS[:, -1] = 0
        return weights_TS


def sparse_rows(dense_OI: torch.Tensor) -> SparseRows:
    found = dense_OI.nonzero()
    starts_O1 = torch.zeros(len(dense_OI) + 1, dtype=torch.int32)
    starts_O1[1:] = (dense_OI != 0).sum(1).cumsum(0)
    return SparseRows(starts_O1, found[:, 1].int(), dense_OI[found[:, 0], found[:, 1]])


def dense_change(terms: Terms, weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """dW and db of one slice in float64, from the definition."""
    change_OI, bias_O = torch.zeros_like(weight_OI), torch.zeros(len(weight_OI), dtype=torch.float64)
    if terms.a_RI is not None and terms.b_OR is not None:
        change_OI += terms.b_OR.double() @ terms.a_RI.double()
    if terms.sparse is not None:
        for row in range(len(weight_OI)):
            stored = slice(int(terms.sparse.starts_O1[row]), int(terms.sparse.starts_O1[row + 1]))
            change_OI[row, terms.sparse.columns_N[stored].long()] += terms.sparse.values_N[stored].double()
    if terms.row_scale_O is not None:
        change_OI += torch.diag(terms.row_scale_O.double()) @ weight_OI
    if terms.column_scale_I is not None:
        change_OI += weight_OI @ torch.diag(terms.column_scale_I.double())
    if terms.bias_O is not None:
        bias_O += terms.bias_O.double()
    return change_OI, bias_O


def expected(
    shape: LayerShape,
    weight_OI: torch.Tensor,
    bias_O: torch.Tensor | None,
    slots: dict[int, Sequence[Terms | None]],
    weights_TS: torch.Tensor,
    x_TI: torch.Tensor,
) -> torch.Tensor:
    """The layer's output for each token by its own dense weights, in float64."""
    changes = {slot: _whole_change(shape, weight_OI.double(), slices) for slot, slices in slots.items()}
    rows = []
    for x_I, weights_S in zip(x_TI.double(), weights_TS.double(), strict=True):
        dense_OI, added_O = weight_OI.double().clone(), torch.zeros(len(weight_OI), dtype=torch.float64)
        for slot, (change_OI, change_O) in changes.items():
            dense_OI += weights_S[slot] * change_OI
            added_O += weights_S[slot] * change_O
        rows.append(dense_OI @ x_I + added_O + (0 if bias_O is None else bias_O.double()))
    return torch.stack(rows)


def _whole_change(
    shape: LayerShape, weight_OI: torch.Tensor, slices: Sequence[Terms | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [
        dense_change(terms if terms is not None else Terms(), weight_OI[columns])
        for terms, columns in zip(slices, shape.columns, strict=True)
    ]
    return torch.cat([change for change, _ in parts]), torch.cat([bias for _, bias in parts])
