"""The sparse term of a delta."""

from dataclasses import InitVar, dataclass

import torch

from polyad.adapters_store.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Sparse:
    """dW that is `values` at `indices` and zero elsewhere; `shape` is (out, in).

    `indices` are flat and row-major, ascending, each once; int32 where out * in < 2**31, else int64. `values` are
    floating. Raises InvalidInput for anything else; that they ascend is not looked at where they are known to be
    `ordered`.
    """

    indices: torch.Tensor
    values: torch.Tensor
    shape: tuple[int, int]
    ordered: InitVar[bool] = False

    def __post_init__(self, ordered: bool) -> None:
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise InvalidInput("sparse.shape", self.shape, "(out, in), both positive")
        if self.indices.dim() != 1 or self.indices.shape != self.values.shape:
            shapes = (tuple(self.indices.shape), tuple(self.values.shape))
            raise InvalidInput("sparse", shapes, "as many indices as values, each in one dimension")
        if not self.values.is_floating_point():
            raise InvalidInput("sparse.values", str(self.values.dtype), "a floating dtype")
        expected = index_dtype(self.shape)
        if self.indices.dtype != expected:
            raise InvalidInput("sparse.indices", str(self.indices.dtype), f"{expected} for the shape {self.shape}")
        if not ordered:
            self._check_order()

    def _check_order(self) -> None:
        if not self.count:
            return
        if not bool((self.indices[1:] > self.indices[:-1]).all()):
            raise InvalidInput("sparse.indices", "unsorted or repeated indices", "ascending indices, each once")
        first, last = int(self.indices[0]), int(self.indices[-1])
        if first < 0 or last >= self.shape[0] * self.shape[1]:
            raise InvalidInput("sparse.indices", [first, last], f"0 to {self.shape[0] * self.shape[1] - 1}")

    @property
    def count(self) -> int:
        return self.indices.shape[0]

    @property
    def size(self) -> int:
        return self.indices.nbytes + self.values.nbytes

    def coordinates(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The row and the column of each value, int64."""
        flat = self.indices.long()
        return flat // self.shape[1], flat % self.shape[1]


def index_dtype(shape: tuple[int, int]) -> torch.dtype:
    """The dtype that flat indices into a matrix of this shape have."""
    return torch.int32 if shape[0] * shape[1] < 2**31 else torch.int64
