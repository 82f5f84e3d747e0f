"""Passes over task vectors on CPU, in native code (csrc/merging.cpp): each does at once what torch does in many.

A task vector is a tensor of any shape, float32, in one piece, on a CPU, that holds no NaN; `takes` says whether one is.
Without a C++ compiler at installation, none is, and those who ask compute in torch.
"""

import math
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

# csrc/merging.cpp has the same fields and numbers.
_ROW = struct.Struct("qffff")
_DIVIDE: dict[Divide, int] = {"none": 0, "weights": 1, "count": 2}


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


def band(task: torch.Tensor, dropped: int, kept: int) -> tuple[float, float]:
    """Where the magnitudes lie that follow the `dropped` largest, `kept` of them: from the first number to below the
    second. Of equal ones the first are larger; those that no bound tells from the others become zero, in place.
    """
    return _merging.band(LANES, task.data_ptr(), task.numel(), dropped, kept)


def drop(task: torch.Tensor, key: int, limit: int) -> tuple[float, float]:
    """Keep, in place, the elements whose random 24 bits are below `limit`; the L1 norm before and after."""
    return _merging.drop(LANES, task.data_ptr(), task.numel(), key, limit)


class Task(NamedTuple):
    """A task vector of which the magnitudes from `low` to below `end` count, times `factor`; and its weight."""

    values: torch.Tensor
    weight: float
    factor: float = 1.0
    low: float = 0.0
    end: float = math.inf


def sum_up(tasks: Sequence[Task], out: torch.Tensor) -> torch.Tensor:
    """The weighted sum, element by element; all of one shape. `out` may be one of them."""
    return _combine(tasks, out, elect=False)


def elect(
    tasks: Sequence[Task],
    out: torch.Tensor,
    *,
    divide: Divide,
    weighted: bool,
    frequency: bool,
    zero_is_positive: bool,
) -> torch.Tensor:
    """The mean of what agrees with the elected sign, element by element; all of one shape. `out` may be one of them."""
    rule = (_DIVIDE[divide], True, weighted, frequency, zero_is_positive)
    return _combine(tasks, out, *rule)


def _combine(
    tasks: Sequence[Task],
    out: torch.Tensor,
    divide: int = 0,
    elect: bool = True,
    weighted: bool = False,
    frequency: bool = False,
    zero_is_positive: bool = True,
) -> torch.Tensor:
    rows = b"".join(_ROW.pack(task.values.data_ptr(), *task[1:]) for task in tasks)
    rule = (divide, elect, weighted, frequency, zero_is_positive)
    _merging.combine(LANES, rows, len(tasks), *rule, out.numel(), out.data_ptr())
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
