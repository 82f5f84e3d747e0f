"""Thresholds over a whole model, exactly, in two passes: no more is held than what falls into one bin.

The bits of a non-negative float32 sort as the number does; its first 16 below the sign are the bin.
"""

from collections.abc import Callable, Iterable

import torch

from polyad.adapters_store.merge.threshold import kth_largest

_LOW_BITS = 15
_BINS = 2**16


def whole_model_threshold(tensors: Callable[[], Iterable[torch.Tensor]], share: float) -> float:
    """The magnitude of the max(int(share * n), 1)-th largest of all elements.

    `tensors` gives them anew at each call.
    """
    counts = torch.zeros(_BINS, dtype=torch.int64)
    for tensor in tensors():
        counts += torch.bincount(_bits(tensor) >> _LOW_BITS, minlength=_BINS)
    wanted = max(int(share * int(counts.sum())), 1)
    from_above = counts.flip(0).cumsum(0)
    place = int((from_above < wanted).sum())
    found = _BINS - 1 - place
    above = int(from_above[place]) - int(counts[found])
    inside = [part.flatten()[_bits(part) >> _LOW_BITS == found].abs() for part in tensors()]
    return kth_largest(torch.cat(inside), wanted - above)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten().view(torch.int32) & 0x7FFFFFFF
