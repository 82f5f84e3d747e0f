"""One linear layer with the deltas in its slots: the base layer's product, and all that the deltas change about it.

    y_t = W (x_t * (1 + sum_i w_ti v_i)) + b0 + sum_i w_ti [u_i * (W x_t) + B_i (A_i x_t) + S_i x_t + c_i]

Shape suffixes: T tokens, I input features, O output features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from polyad.kernels.backend import Backend
from polyad.kernels.batch import Batch
from polyad.kernels.layer_shape import LayerShape
from polyad.kernels.terms import Terms

# The base layer: x Wᵀ plus a bias that may be None.
Product = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True, eq=False)
class PackedLinear:
    """A delta's part in one layer, as the backend wants it, ready to be put into a slot."""

    kernel: Any
    column_scales: tuple[torch.Tensor | None, ...]
    scales_rows: bool

    @property
    def adds(self) -> bool:
        return self.kernel is not None

    @property
    def scales_columns(self) -> bool:
        return any(scale is not None for scale in self.column_scales)

    @property
    def scales_slices_alike(self) -> bool:
        first = self.column_scales[0]
        return first is not None and all(
            scale is not None and torch.equal(scale, first) for scale in self.column_scales[1:]
        )


class LinearDeltas:
    """The slots of one layer. All but `pack` belongs to the thread that runs the model.

    With `recorded`, launches may be replayed for other batches than the one that they were made for.
    """

    def __init__(self, shape: LayerShape, slots: int, backend: Backend, recorded: bool = False) -> None:
        self.shape = shape
        self._recorded = recorded
        self._backend = backend
        self._kernel = backend.layer(shape, slots)
        self._column_scales: dict[int, tuple[torch.Tensor | None, ...]] = {}
        # One bit for each slot.
        self._adds = self._scales = self._needs_product = 0

    def pack(self, slices: Sequence[Terms | None]) -> PackedLinear | None:
        """A delta's change of each slice in the backend's layout; None if there is none. Safe in any thread.

        Raises ValueError for a column scale where launches are recorded: it changes the base's product.
        """
        present = [terms for terms in slices if terms is not None]
        if self._recorded and any(terms.column_scale_I is not None for terms in present):
            raise ValueError("scales of input columns are computed only with --enforce-eager on this device")
        if not present:
            return None
        return PackedLinear(
            kernel=self._backend.layer.pack(self.shape, slices) if any(terms.adds for terms in present) else None,
            column_scales=tuple(None if terms is None else terms.column_scale_I for terms in slices),
            scales_rows=any(terms.row_scale_O is not None for terms in present),
        )

    def fill(self, slot: int, packed: PackedLinear | None) -> None:
        """Put a delta into a slot, in the place of what was there."""
        self._forget(slot)
        if packed is None:
            return
        bit = 1 << slot
        if packed.adds:
            self._kernel.fill(slot, packed.kernel)
            self._adds |= bit
        if packed.scales_columns:
            self._column_scales[slot] = packed.column_scales
            self._scales |= bit
        if packed.scales_rows or (packed.scales_columns and not packed.scales_slices_alike):
            self._needs_product |= bit

    def forward(self, x: torch.Tensor, product: Product, bias_O: torch.Tensor | None, batch: Batch) -> torch.Tensor:
        """The layer's output for a batch; `x` is [tokens, inputs], perhaps with a dimension of 1 before them."""
        adds, scales = self._adds & batch.mask or batch.recorded, self._scales & batch.mask
        if not adds and not scales:
            return product(x, bias_O)
        x_TI = x.reshape(-1, self.shape.inputs)
        if len(x_TI) < batch.tokens:
            raise ValueError(f"x: got {len(x_TI)} tokens, the batch has {batch.tokens}")
        alike = scales and not self._needs_product & batch.mask
        y = product(self._scaled(x_TI, 0, batch, keep=1).view_as(x) if alike else x, bias_O)
        y_TO = y.view(-1, y.shape[-1])
        if adds:
            self._kernel.add(y_TO, x_TI, bias_O, batch)
        if scales and not alike:
            self._add_scaled_products(y_TO, x_TI, product, batch)
        return y

    def _forget(self, slot: int) -> None:
        bit = 1 << slot
        if self._adds & bit:
            self._kernel.clear(slot)
        self._column_scales.pop(slot, None)
        self._adds, self._scales, self._needs_product = (
            mask & ~bit for mask in (self._adds, self._scales, self._needs_product)
        )

    def _add_scaled_products(self, y_TO: torch.Tensor, x_TI: torch.Tensor, product: Product, batch: Batch) -> None:
        for index, columns in enumerate(self.shape.columns):
            if any(self._scale_of(group.slot, index) is not None for group in batch.groups):
                y_TO[:, columns] += product(self._scaled(x_TI, index, batch, keep=0), None)[:, columns]

    def _scaled(self, x_TI: torch.Tensor, index: int, batch: Batch, keep: int) -> torch.Tensor:
        """x * (keep + sum_i w_ti v_i), with the v of one slice."""
        factor_TI = torch.full(x_TI.shape, float(keep), device=x_TI.device)
        for group in batch.groups:
            scale_I = self._scale_of(group.slot, index)
            if scale_I is not None:
                factor_TI[group.tokens_G.long()] += group.weights_G.float().unsqueeze(1) * scale_I
        return (x_TI * factor_TI).to(x_TI.dtype)

    def _scale_of(self, slot: int, index: int) -> torch.Tensor | None:
        return self._column_scales[slot][index] if slot in self._column_scales else None
