"""Passes over task vectors on CPU, in native code (csrc/merging.cpp): each does at once what torch does in many.

A task vector is a tensor of any shape, float32, in one piece, on a CPU, that holds no NaN; `takes` says whether one is.
Without a C++ compiler at installation, none is, and those who ask compute in torch.
"""

from collections.abc import Sequence
from typing import Literal

import torch

try:
    from polyad.kernels import _merging
except ImportError:
    LANES = 0
else:
    LANES = max(_merging.supported().values())

Divide = Literal["none", "weights", "count"]

# csrc/merging.cpp has the same numbers.
_DIVIDE: dict[Divide, int] = {"none": 0, "weights": 1, "count": 2}


def takes(*tasks: torch.Tensor) -> bool:
    """Whether all of them can be worked on here."""
    return LANES > 0 and all(
        task.device.type == "cpu" and task.dtype == torch.float32 and task.is_contiguous() for task in tasks
    )


def kth_largest(task: torch.Tensor, k: int) -> float:
    """The `k`-th largest magnitude, from 1 to the number of elements."""
    return _merging.select(LANES, task.data_ptr(), task.numel(), k)


def keep_band(task: torch.Tensor, dropped: int, kept: int) -> torch.Tensor:
    """Keep, in place, the `kept` magnitudes that follow the `dropped` largest; of equal ones the first are larger."""
    _merging.keep_band(LANES, task.data_ptr(), task.numel(), dropped, kept)
    return task


def drop(task: torch.Tensor, key: int, limit: int) -> tuple[float, float]:
    """Keep, in place, the elements whose random 24 bits are below `limit`; the L1 norm before and after."""
    return _merging.drop(LANES, task.data_ptr(), task.numel(), key, limit)


def elect(
    tasks: Sequence[torch.Tensor],
    weights: Sequence[float],
    *,
    divide: Divide,
    weighted: bool,
    frequency: bool,
    zero_is_positive: bool,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean of what agrees with the elected sign, element by element; all tasks of one shape. `out` may be one of
    them."""
    out = torch.empty_like(tasks[0]) if out is None else out
    pointers = torch.tensor([task.data_ptr() for task in tasks], dtype=torch.int64)
    shares = torch.tensor(weights, dtype=torch.float32)
    rule = (_DIVIDE[divide], weighted, frequency, zero_is_positive)
    _merging.elect(LANES, pointers.data_ptr(), shares.data_ptr(), len(tasks), *rule, out.numel(), out.data_ptr())
    return out


def count_nonzero(values: torch.Tensor) -> int:
    """How many values are not zero."""
    return _merging.count(LANES, values.data_ptr(), values.numel())


def nonzero(values: torch.Tensor, index_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The flat places of the values that are not zero, int32 or int64, and these values."""
    found = count_nonzero(values)
    indices, kept = torch.empty(found, dtype=index_dtype), torch.empty(found)
    wide = index_dtype == torch.int64
    _merging.gather(LANES, values.data_ptr(), found, indices.data_ptr(), wide, kept.data_ptr())
    return indices, kept
