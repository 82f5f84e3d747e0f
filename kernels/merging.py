"""Passes over task vectors on CPU, in native code (csrc/merging.cpp): each does at once what torch does in many.

A task vector is a tensor of any shape, float32, in one piece, on a CPU, that holds no NaN; `takes` says whether one is.
Without a C++ compiler at installation, none is, and those who ask compute in torch.
"""

import struct
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

try:
    from polyad.kernels import _merging
except ImportError:
    LANES = 0
else:
    LANES = max(_merging.supported().values())

# Several large pages.
_MUCH = 2**23

Divide = Literal["none", "weights", "count"]

# csrc/merging.cpp has the same fields, csrc/consensus.h the same numbers.
_ROW = struct.Struct("qd")
_DIVIDE: dict[Divide, int] = {"none": 0, "weights": 1, "count": 2}


class Rule(NamedTuple):
    """How task vectors become one, element by element: the weighted sum, or, if signs are elected, the mean of what
    agrees with the sign; times `scale`.

    `weighted` elects by weighted values, `frequency` by signs in place of values; a sum of zero elects the positive
    sign or the negative. `divide` by the sum of the weights that agree, by their count, or not at all.
    """

    divide: Divide = "none"
    elect: bool = False
    weighted: bool = False
    frequency: bool = False
    zero_is_positive: bool = True
    scale: float = 1.0

    @property
    def numbers(self) -> tuple[int, bool, bool, bool, bool, float]:
        """As native code takes them."""
        return (_DIVIDE[self.divide], *self[1:-1], float(self.scale))


def empty(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """New memory, whatever is in it. In large pages if there is much of it: to be given small ones takes longer than to
    write them."""
    memory = torch.empty(count, dtype=dtype)
    if LANES and memory.nbytes >= _MUCH:
        _merging.large_pages(memory.data_ptr(), memory.nbytes)
    return memory


def takes(*tasks: torch.Tensor) -> bool:
    """Whether all of them can be worked on here."""
    return LANES > 0 and all(task.is_cpu and task.dtype == torch.float32 and task.is_contiguous() for task in tasks)


def kth_largest(task: torch.Tensor, k: int) -> float:
    """The `k`-th largest magnitude, from 1 to the number of elements."""
    return _merging.select(LANES, task.data_ptr(), task.numel(), k)


def combine(tasks: Sequence[torch.Tensor], weights: Sequence[float], rule: Rule, out: torch.Tensor) -> torch.Tensor:
    """One task vector of several, all of one shape. `out` may be one of them."""
    rows = b"".join(_ROW.pack(task.data_ptr(), weight) for task, weight in zip(tasks, weights, strict=True))
    _merging.combine(LANES, rows, len(tasks), *rule.numbers, out.numel(), out.data_ptr())
    return out


def squared(values: torch.Tensor) -> float:
    """The sum of the squares, in float64."""
    return _merging.squared(LANES, values.data_ptr(), values.numel())


def count_nonzero(values: torch.Tensor) -> int:
    """How many values are not zero."""
    return _merging.count(LANES, values.data_ptr(), values.numel())


def gather(values: torch.Tensor, indices: torch.Tensor, kept: torch.Tensor) -> None:
    """Write the values that are not zero to `kept`, their flat places to `indices` (int32 or int64): exactly as many as
    there is room for."""
    found, wide = len(kept), indices.dtype == torch.int64
    _merging.gather(LANES, values.data_ptr(), values.numel(), found, indices.data_ptr(), wide, kept.data_ptr())
