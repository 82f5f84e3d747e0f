"""The shape of one linear layer as an engine holds it: several modules of the model may be slices of one layer."""

from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch


@dataclass(frozen=True)
class LayerShape:
    """`widths` are the output features of each slice, in their order in the layer's output.

    `max_rank` is the largest rank that any delta may have in a slice: what launches that are recorded make room for.
    """

    inputs: int
    widths: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    max_rank: int

    @property
    def begins(self) -> tuple[int, ...]:
        """The first column of each slice, and the end of the last."""
        return (0, *accumulate(self.widths))

    @property
    def columns(self) -> list[slice]:
        begins = self.begins
        return [slice(begin, end) for begin, end in pairwise(begins)]
