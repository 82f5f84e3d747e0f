"""How one task vector is made sparse: what is left of it.

A tensor [O, I] or [O], float32, may be written over.
"""

from typing import Literal

import torch

from polyad.adapters_store.merge.counter_random import keep, limit, uniform
from polyad.adapters_store.merge.task import Left, Task, matrix, sifted
from polyad.adapters_store.merge.threshold import row_top_mask, top_mask
from polyad.kernels import sieve

Rescale = Literal["none", "share", "l1"]

# What a block of random numbers takes stays in a cache.
_BLOCK = 2**15


def magnitude(task: Task, density: float, threshold: float | None = None) -> Left:
    """Keep the largest int(density * n), at least one; or all from `threshold` on, if one is given."""
    if threshold is not None or density >= 1:
        return _above(task, threshold or 0.0)
    return _band(task, 0, max(int(density * task.numel()), 1))


def outliers(task: Task, kept: float, drop_top: float) -> Left:
    """Of the whole tensor: without the largest int(drop_top * n), keep the next int(kept * n), at least one.

    Where both do not fit, fewer are dropped.
    """
    n = task.numel()
    wanted = max(int(kept * n), 1)
    dropped = min(int(drop_top * n), n - wanted)
    return _above(task, 0.0) if wanted == n else _band(task, dropped, wanted)


def random(task: Task, density: float, key: int, rescale: Rescale) -> Left:
    """Keep each element with the probability `density` (DARE)."""
    if density >= 1:
        return _above(task, 0.0)
    if native := sifted(task):
        source, to = native
        before, after = sieve.random(source, to, key, limit(density))
        return sieve.Left(tuple(task.shape), to, factor=_factor(density, before, after, rescale))
    tensor = matrix(task)
    before = _l1(tensor) if rescale == "l1" else 0.0
    flat = tensor.view(-1)
    for start in range(0, len(flat), _BLOCK):
        part = flat[start : start + _BLOCK]
        part.mul_(keep(key, start, len(part), density, part.device))
    return _rescaled(tensor, density, before, rescale)


def _above(task: Task, low: float) -> Left:
    if native := sifted(task):
        return sieve.above(*native, low)
    tensor = matrix(task)
    return tensor.masked_fill_(tensor.abs() < low, 0) if low else tensor


def _band(task: Task, dropped: int, wanted: int) -> Left:
    if native := sifted(task):
        return sieve.band(*native, dropped, wanted)
    tensor = matrix(task)
    magnitudes = tensor.abs()
    mask = top_mask(magnitudes, dropped + wanted)
    if dropped:
        mask &= ~top_mask(magnitudes, dropped)
    return tensor.mul_(mask)


def row_outliers(task: torch.Tensor, kept: float, drop_top: float) -> torch.Tensor:
    """As `outliers`, but within every row of the last dimension."""
    columns = task.shape[-1]
    wanted = max(int(kept * columns), 1)
    dropped = min(int(drop_top * columns), columns - wanted)
    magnitudes = task.abs()
    mask = row_top_mask(magnitudes, dropped + wanted)
    if dropped:
        mask &= ~row_top_mask(magnitudes, dropped)
    return task.mul_(mask)


def ranked(task: torch.Tensor, density: float, epsilon: float, key: int, rescale: Rescale) -> torch.Tensor:
    """Keep each element with a probability from density - epsilon to density + epsilon, by its rank in its row (DELLA).

    `share` divides each by its own probability.
    """
    if density >= 1:
        return task
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
        return task
    return _rescaled(task, density, before, rescale)


def _rescaled(task: torch.Tensor, density: float, before: float, rescale: Rescale) -> torch.Tensor:
    factor = _factor(density, before, _l1(task) if rescale == "l1" else 0.0, rescale)
    return task if factor == 1 else task.mul_(factor)


def _factor(density: float, before: float, after: float, rescale: Rescale) -> float:
    if rescale == "share":
        return 1 / density
    return before / after if rescale == "l1" and before and after else 1.0


def _l1(task: torch.Tensor) -> float:
    return float(task.abs().sum(dtype=torch.float64))
