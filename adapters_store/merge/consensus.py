"""How several sparse task vectors become one: summed up, or only where they agree in sign (TIES, arXiv 2306.01708).

Three rules are in use under that name; each is here as it is. Tensors are walked in blocks that fit into a cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from polyad.adapters_store.merge.task import Left, Result, written
from polyad.kernels import merging, sieve
from polyad.kernels.merging import Rule

_BLOCK = 2**17


@dataclass(frozen=True)
class Election:
    """`weighted` elects the sign by weighted values, `frequency` by signs in place of values.

    `divide` by the sum of the weights that agree, by their count, or not at all. `zero`: what a sum of zero elects.
    """

    weighted: bool
    divide: merging.Divide
    frequency: bool = False
    zero: Literal["positive", "majority"] = "positive"


# mergekit's, and polyad's default; PEFT's; the paper's, whose inputs have no weights.
WEIGHTED = Election(weighted=True, divide="weights")
COUNTED = Election(weighted=False, divide="count")
PAPER = Election(weighted=False, divide="count", zero="majority")


def total(tasks: Sequence[Left], weights: Sequence[float], divisor: float = 1.0, scale: float = 1.0) -> Result:
    """The weighted sum, over `divisor`; times `scale`. It may be written over the first task."""
    shares = [weight / divisor for weight in weights]
    return _combined(tasks, shares, Rule(scale=scale), lambda parts: _sum(parts, shares))


def agreeing(tasks: Sequence[Left], weights: Sequence[float], election: Election, scale: float = 1.0) -> Result:
    """The mean of what agrees with the elected sign, element by element, times `scale`; zero where nothing does.

    It may be written over the first task.
    """
    zero_is_positive = election.zero == "positive" or _mostly_positive(tasks)
    rule = Rule(
        divide=election.divide,
        elect=True,
        weighted=election.weighted and not election.frequency,
        frequency=election.frequency,
        zero_is_positive=zero_is_positive,
        scale=scale,
    )
    return _combined(
        tasks,
        weights,
        rule,
        lambda parts: _in_blocks(parts, lambda some: _agreeing(some, weights, election, zero_is_positive)),
    )


def _combined(
    tasks: Sequence[Left],
    weights: Sequence[float],
    rule: Rule,
    in_torch: Callable[[Sequence[torch.Tensor]], torch.Tensor],
) -> Result:
    left = [task for task in tasks if isinstance(task, sieve.Left)]
    if len(left) == len(tasks):
        return sieve.Combination(left, weights, rule)
    tensors = [written(task) for task in tasks]
    if merging.takes(*tensors):
        return merging.combine(tensors, weights, rule, tensors[0])
    result = in_torch(tensors)
    return result if rule.scale == 1 else result.mul_(rule.scale)


def _sum(tasks: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    result = tasks[0] * weights[0]
    for task, weight in zip(tasks[1:], weights[1:], strict=True):
        result.add_(task, alpha=weight)
    return result


def _agreeing(
    parts: list[torch.Tensor], weights: Sequence[float], election: Election, zero_is_positive: bool
) -> torch.Tensor:
    ballots = [part.sign() if election.frequency else part for part in parts]
    counts = election.frequency or not election.weighted
    elected = _sum(ballots, [1.0] * len(parts) if counts else weights)
    positive = elected.ge(0) if zero_is_positive else elected.gt(0)
    # +1 or -1: a part agrees where its product with it is above zero
    side = positive.to(parts[0].dtype).mul_(2).sub_(1)
    result, divisor = torch.zeros_like(side), torch.zeros_like(side)
    agrees = torch.empty_like(side)
    for part, weight in zip(parts, weights, strict=True):
        torch.mul(part, side, out=agrees)
        # what agrees, without its sign
        agrees.clamp_(min=0)
        result.add_(agrees, alpha=weight)
        if election.divide != "none":
            torch.sign(agrees, out=agrees)
            divisor.add_(agrees, alpha=weight if election.divide == "weights" else 1.0)
    result.mul_(side)
    if election.divide != "none":
        divisor[divisor == 0] = 1
        result.div_(divisor)
    return result


def _mostly_positive(tasks: Sequence[Left]) -> bool:
    tensors = [written(task) for task in tasks]
    signs = _in_blocks(tensors, lambda parts: _sum(parts, [1.0] * len(parts)).sign_())
    return float(signs.sum(dtype=torch.float64)) >= 0


def _in_blocks(tasks: Sequence[torch.Tensor], function: Callable[[list[torch.Tensor]], torch.Tensor]) -> torch.Tensor:
    flat = [task.reshape(-1) for task in tasks]
    result = torch.empty_like(flat[0])
    for start in range(0, len(result), _BLOCK):
        part = slice(start, start + _BLOCK)
        result[part] = function([one[part] for one in flat])
    return result.view_as(tasks[0])
