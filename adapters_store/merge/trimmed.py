"""What is left of a task vector, before it is written out."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, eq=False)
class Trimmed:
    """The magnitudes of a task vector from `low` to below `end`, times `factor`; zero elsewhere."""

    task: torch.Tensor
    low: float = 0.0
    end: float = math.inf
    factor: float = 1.0

    def written(self) -> torch.Tensor:
        """All of it, over the task vector."""
        if self.low > 0 or self.end < math.inf:
            magnitudes = self.task.abs()
            self.task.masked_fill_((magnitudes < self.low).logical_or_(magnitudes >= self.end), 0)
        return self.task if self.factor == 1 else self.task.mul_(self.factor)


def whole(tasks: Iterable[torch.Tensor]) -> list[Trimmed]:
    """Task vectors of which everything is left."""
    return [Trimmed(task) for task in tasks]
