"""Elastic weight consolidation (arXiv 1612.00796): strength/2 sum F (t - t_parent)².

F are the mean squared gradients of the parent on earlier examples. The parameters are the LoRA factors: their basis is
the parent's, since training goes on from it.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from polyad.serve.learn.train import losses
from polyad.serve.learn.train.checkpoint import Tensors
from polyad.serve.learn.train.log_probs import LogProbs, log_probs
from polyad.serve.learn.train.options.option import Option, Training, Values

_MAX_BATCHES = 32


@dataclass
class Ewc(Option):
    defaults: ClassVar[Values] = {"strength": 0.3}
    _importance: Tensors = field(default_factory=dict)

    def begin(self, training: Training) -> None:
        sums = {name: torch.zeros_like(one) for name, one in training.parameters.items()}
        count = 0
        for rows in training.replay_rows():
            if count == _MAX_BATCHES:
                break
            loss = losses.sft(log_probs(training.model, rows, training.padding))
            gradients = torch.autograd.grad(loss, list(training.parameters.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total += gradient.detach() ** 2
            count += 1
        self._importance = {name: total / max(1, count) for name, total in sums.items()}

    def more_loss(self, training: Training, said: LogProbs | None, rows: object) -> torch.Tensor | None:
        terms = [
            (self._importance[name] * (parameter - training.parent[name]) ** 2).sum()
            for name, parameter in training.parameters.items()
        ]
        return float(self.values["strength"]) / 2 * torch.stack(terms).sum()
