"""The low-rank term of a delta."""

import math
from dataclasses import dataclass

import torch

from polyad.adapters_store.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class LowRank:
    """dW = scale * b @ a, with a of shape [r, in] and b of shape [out, r]. Raises InvalidInput on other shapes."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float

    def __post_init__(self) -> None:
        if self.a.dim() != 2 or self.b.dim() != 2 or self.a.shape[0] != self.b.shape[1] or self.a.shape[0] < 1:
            shapes = (tuple(self.a.shape), tuple(self.b.shape))
            raise InvalidInput("low_rank", shapes, "a of shape [r, in] and b of shape [out, r], r >= 1")
        if not (self.a.is_floating_point() and self.b.is_floating_point()):
            raise InvalidInput("low_rank", f"{self.a.dtype} and {self.b.dtype}", "floating dtypes")
        if not math.isfinite(self.scale):
            raise InvalidInput("low_rank.scale", self.scale, "a finite number")

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def size(self) -> int:
        return self.a.nbytes + self.b.nbytes
