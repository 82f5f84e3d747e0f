"""MFTCoder's losses of taught answers (arXiv 2311.02303): of several tasks none drowns for being short or rare.

`case` 1: mean over all tokens; 2: mean over answers of their token means; 3: weighted mean over the tasks in the batch
of their token means; 4: the same with answer means. Other settings are weights of tasks by their labels; 1 elsewhere.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from polyad.serve.learn.train.log_probs import LogProbs
from polyad.serve.learn.train.options.option import Option, Values
from polyad.serve.learn.train.tokens import Row


@dataclass
class TaskWeights(Option):
    defaults: ClassVar[Values] = {"case": 3}

    def taught(self, said: LogProbs, rows: Sequence[Row]) -> torch.Tensor:
        weights = {task: float(value) for task, value in self.values.items() if task != "case"}
        return task_loss(-said.sums, said.counts, [row.task for row in rows], int(self.values["case"]), weights)


def task_loss(
    losses: torch.Tensor, counts: torch.Tensor, tasks: Sequence[str], case: int, weights: dict[str, float]
) -> torch.Tensor:
    """`losses` [N] are sums over tokens, `counts` [N] how many these are."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, task in enumerate(tasks):
        groups[task if case > 2 else ""].append(index)
    means, heavy = [], []
    for task, rows in groups.items():
        by_answer = case in (2, 4)
        means.append((losses[rows] / counts[rows]).mean() if by_answer else losses[rows].sum() / counts[rows].sum())
        heavy.append(weights.get(task, 1.0) if case > 2 else 1.0)
    weight = torch.tensor(heavy, device=losses.device)
    return (torch.stack(means) * weight).sum() / weight.sum()
