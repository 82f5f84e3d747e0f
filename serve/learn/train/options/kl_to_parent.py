"""Learning without forgetting (arXiv 1606.09282): strength T² KL(parent || model) at temperature T.

The mean over the tokens of the taught answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from polyad.serve.learn.train.log_probs import LogProbs, log_probs
from polyad.serve.learn.train.options.option import Option, Training, Values
from polyad.serve.learn.train.tokens import Row


@dataclass
class KlToParent(Option):
    defaults: ClassVar[Values] = {"strength": 0.1, "temperature": 2.0}

    def more_loss(self, training: Training, said: LogProbs | None, rows: Sequence[Row]) -> torch.Tensor | None:
        if said is None:
            return None
        with training.as_parent(), torch.no_grad():
            before = log_probs(training.model, rows, training.padding)
        temperature = float(self.values["temperature"])
        divergence = kl(before.logits_NAV / temperature, said.logits_NAV / temperature)
        mean = divergence.masked_fill(~said.mask_NA, 0.0).sum() / said.counts.sum()
        return float(self.values["strength"]) * temperature**2 * mean


def kl(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """KL(before || after) of logits, over their last dimension, in nats."""
    p, q = before.log_softmax(-1), after.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)
