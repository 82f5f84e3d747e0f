"""How one task vector is made sparse, and what is left of it.

A task vector is a tensor [O, I] or [O], float32; it may be written over.
"""

from typing import Literal

import torch

from polyad.adapters_store.merge.counter_random import keep, limit, uniform
from polyad.adapters_store.merge.threshold import kth_largest, row_top_mask, top_mask
from polyad.adapters_store.merge.trimmed import Trimmed
from polyad.kernels import merging

Rescale = Literal["none", "share", "l1"]

# What a block of random numbers takes stays in a cache.
_BLOCK = 2**15


def magnitude(task: torch.Tensor, density: float, threshold: float | None = None) -> Trimmed:
    """Keep the largest int(density * n), at least one; or all from `threshold` on, if one is given."""
    if threshold is not None:
        return Trimmed(task, threshold)
    if density >= 1:
        return Trimmed(task)
    wanted = max(int(density * task.numel()), 1)
    if merging.takes(task):
        return Trimmed(task, *merging.band(task, 0, wanted))
    magnitudes = task.abs()
    found = kth_largest(magnitudes, wanted)
    if int(torch.count_nonzero(magnitudes >= found)) == wanted:
        return Trimmed(task, found)
    return Trimmed(task.mul_(top_mask(magnitudes, wanted)))


def random(task: torch.Tensor, density: float, key: int, rescale: Rescale) -> Trimmed:
    """Keep each element with the probability `density` (DARE)."""
    if density >= 1:
        return Trimmed(task)
    if merging.takes(task):
        return _scaled(task, density, *merging.drop(task, key, limit(density)), rescale)
    before = _l1(task) if rescale == "l1" else 0.0
    flat = task.view(-1)
    for start in range(0, len(flat), _BLOCK):
        part = flat[start : start + _BLOCK]
        part.mul_(keep(key, start, len(part), density, task.device))
    return _rescaled(task, density, before, rescale)


def outliers(task: torch.Tensor, kept: float, drop_top: float) -> Trimmed:
    """Of the whole tensor: without the largest int(drop_top * n), keep the next int(kept * n), at least one.

    Where both do not fit, fewer are dropped.
    """
    n = task.numel()
    wanted = max(int(kept * n), 1)
    dropped = min(int(drop_top * n), n - wanted)
    if wanted == n:
        return Trimmed(task)
    if merging.takes(task):
        return Trimmed(task, *merging.band(task, dropped, wanted))
    magnitudes = task.abs()
    mask = top_mask(magnitudes, dropped + wanted)
    if dropped:
        mask &= ~top_mask(magnitudes, dropped)
    return Trimmed(task.mul_(mask))


def row_outliers(task: torch.Tensor, kept: float, drop_top: float) -> Trimmed:
    """The same within every row of the last dimension."""
    columns = task.shape[-1]
    wanted = max(int(kept * columns), 1)
    dropped = min(int(drop_top * columns), columns - wanted)
    magnitudes = task.abs()
    mask = row_top_mask(magnitudes, dropped + wanted)
    if dropped:
        mask &= ~row_top_mask(magnitudes, dropped)
    return Trimmed(task.mul_(mask))


def ranked(task: torch.Tensor, density: float, epsilon: float, key: int, rescale: Rescale) -> Trimmed:
    """Keep each element with a probability from density - epsilon to density + epsilon, by its rank in its row (DELLA).

    `share` divides each by its own probability.
    """
    if density >= 1:
        return Trimmed(task)
    before = _l1(task) if rescale == "l1" else 0.0
    rows = task if task.dim() > 1 else task.unsqueeze(0)
    columns = rows.shape[-1]
    ranks = rows.abs().argsort(dim=-1, stable=True).argsort(dim=-1).to(torch.float32)
    place = ranks.div_(columns - 1) if columns > 1 else torch.full_like(ranks, 0.5)
    probability = place.mul_(2 * epsilon).add_(density - epsilon)
    draws = uniform(key, 0, rows.numel(), task.device).view_as(rows)
    rows.mul_(draws < probability)
    if rescale == "share":
        rows.div_(probability)
        return Trimmed(task)
    return _rescaled(task, density, before, rescale)


def _rescaled(task: torch.Tensor, density: float, before: float, rescale: Rescale) -> Trimmed:
    return _scaled(task, density, before, _l1(task) if rescale == "l1" else 0.0, rescale)


def _scaled(task: torch.Tensor, density: float, before: float, after: float, rescale: Rescale) -> Trimmed:
    if rescale == "share":
        return Trimmed(task, factor=1 / density)
    if rescale == "l1" and before and after:
        return Trimmed(task, factor=before / after)
    return Trimmed(task)


def _l1(task: torch.Tensor) -> float:
    return float(task.abs().sum(dtype=torch.float64))
