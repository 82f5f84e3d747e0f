"""The k-th largest magnitude of a tensor, exactly, without sorting it. Shape suffixes: N elements, S sampled elements.

Native code does it by the digits of the numbers. In torch, a strided sample brackets the threshold; one pass counts
what lies above the bracket, and only what lies within it is selected from. If the bracket missed, everything is
selected from: the answer never depends on the sample.
"""

import math

import torch

from polyad.kernels import merging

_LEAST_SAMPLED = 4096
_SAMPLED_SHARE = 128
_SMALL = 4 * _LEAST_SAMPLED


def kth_largest(magnitudes: torch.Tensor, k: int) -> float:
    """The `k`-th largest (from 1) of non-negative numbers of any shape."""
    if merging.takes(magnitudes):
        return merging.kth_largest(magnitudes, k)
    flat_N = magnitudes.flatten()
    n = len(flat_N)
    if n > _SMALL:
        low, high = _bracket(flat_N, k)
        above_N = flat_N > high
        above = int(torch.count_nonzero(above_N))
        between_N = flat_N.masked_select((flat_N > low).logical_xor_(above_N))
        if above < k <= above + len(between_N):
            return _kth(between_N, k - above)
    return _kth(flat_N, k)


def top_mask(magnitudes: torch.Tensor, k: int) -> torch.Tensor:
    """Which are the `k` largest, bool; of equal ones those that come first (row-major)."""
    if k <= 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    if k >= magnitudes.numel():
        return torch.ones_like(magnitudes, dtype=torch.bool)
    threshold = kth_largest(magnitudes, k)
    mask = magnitudes >= threshold
    surplus = int(torch.count_nonzero(mask)) - k
    if surplus:
        equal_N = (magnitudes.flatten() == threshold).nonzero().flatten()
        mask.view(-1)[equal_N[len(equal_N) - surplus :]] = False
    return mask


def row_top_mask(magnitudes: torch.Tensor, k: int) -> torch.Tensor:
    """The same for each row of the last dimension."""
    if k <= 0:
        return torch.zeros_like(magnitudes, dtype=torch.bool)
    columns = magnitudes.shape[-1]
    if k >= columns:
        return torch.ones_like(magnitudes, dtype=torch.bool)
    threshold = magnitudes.kthvalue(columns - k + 1, dim=-1, keepdim=True).values
    mask = magnitudes >= threshold
    if int(torch.count_nonzero(mask)) != k * (mask.numel() // columns):
        equal = magnitudes == threshold
        wanted = k - (mask & ~equal).sum(-1, keepdim=True)
        mask &= ~equal | (equal.cumsum(-1) <= wanted)
    return mask


def _bracket(flat_N: torch.Tensor, k: int) -> tuple[float, float]:
    """Two values that the k-th largest very probably lies between: four standard deviations of a sample's quantile."""
    n = len(flat_N)
    sample_S = flat_N[:: n // max(_LEAST_SAMPLED, n // _SAMPLED_SHARE)].sort().values
    size = len(sample_S)
    middle, width = (1 - k / n) * size, 2 * math.sqrt(size) + 2
    low = float(sample_S[int(middle - width)]) if middle >= width else -1.0
    high = float(sample_S[int(middle + width)]) if middle + width < size else math.inf
    return low, high


def _kth(flat_N: torch.Tensor, k: int) -> float:
    return float(flat_N.kthvalue(len(flat_N) - k + 1).values)
