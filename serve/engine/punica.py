"""How a batch on CPU applies the versions in the slots: one pair of products per slot in use, nothing for the others.

vLLM 0.32's own CPU code copies A and B once per token and computes every slot at the largest rank allowed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from polyad.kernels.low_rank import Rows, add_low_rank

Key = tuple[int, int]


class SlotWrapper(PunicaWrapperCPU):
    """vLLM's batch metadata on CPU, which knows each slot's rank in each layer, and its rows in the batch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ranks: dict[Key, int] = {}
        self._groups: list[tuple[int, Rows]] = []

    def set_rank(self, stacked: torch.Tensor, slot: int, rank: int) -> None:
        """Say which rank a slot's factors have in the layer whose A factors are `stacked`; 0 if it has none."""
        self._ranks[stacked.data_ptr(), slot] = rank

    def update_metadata(self, mapping: Any, lora_index_to_id: Sequence[int | None], *args: Any, **kwargs: Any) -> None:
        super().update_metadata(mapping, lora_index_to_id, *args, **kwargs)
        ids = torch.tensor(mapping.index_mapping)
        used = set(mapping.index_mapping)
        self._groups = [
            (slot, _rows(ids == i)) for slot, i in enumerate(lora_index_to_id) if i is not None and i in used
        ]

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **kwargs: Any,
    ) -> None:
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        offset = 0
        for stacked_a, stacked_b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            for slot, rows in self._groups:
                rank = self._ranks.get((stacked_a.data_ptr(), slot), 0)
                if rank:
                    columns = y[:, offset : offset + width]
                    add_low_rank(columns, x, stacked_a[slot, 0, :rank], stacked_b[slot, 0, :, :rank], rows)
            offset += width


def _rows(mask: torch.Tensor) -> Rows:
    rows = mask.nonzero().flatten()
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows
