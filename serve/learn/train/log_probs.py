"""What a model says of answers: the log-probability of each of their tokens.

Shapes: N rows, L tokens of the longest row, A tokens of the longest answer, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from polyad.serve.learn.train.tokens import Row


@dataclass(frozen=True)
class LogProbs:
    """`tokens_NA` is 0 where `mask_NA` is; `logits_NAV` are what they come from."""

    tokens_NA: torch.Tensor
    mask_NA: torch.Tensor
    logits_NAV: torch.Tensor

    @property
    def sums(self) -> torch.Tensor:
        """[N]"""
        return self.tokens_NA.sum(-1)

    @property
    def counts(self) -> torch.Tensor:
        """[N]"""
        return self.mask_NA.sum(-1)


def log_probs(model: Any, rows: Sequence[Row], padding: int) -> LogProbs:
    """One forward pass over all rows, padded on the left so that their answers end together."""
    device = next(model.parameters()).device
    longest, answer = max(row.length for row in rows), max(len(row.answer) for row in rows)
    ids = [[padding] * (longest - row.length) + [*row.prompt, *row.seen] for row in rows]
    real = [[0] * (longest - row.length) + [1] * row.length for row in rows]
    labels = [[0] * (answer - len(row.answer)) + list(row.answer) for row in rows]
    ids_NL = torch.tensor(ids, device=device)
    real_NL = torch.tensor(real, device=device)
    labels_NA = torch.tensor(labels, device=device)
    mask_NA = torch.arange(answer, device=device) >= torch.tensor([[answer - len(row.answer)] for row in rows]).to(
        device
    )
    positions_NL = (real_NL.cumsum(-1) - 1).clamp(min=0)
    said = model(
        input_ids=ids_NL,
        attention_mask=real_NL,
        position_ids=positions_NL,
        logits_to_keep=answer + 1,
        use_cache=False,
    )
    logits_NAV = said.logits[:, -answer - 1 : -1].float()
    tokens_NA = logits_NAV.log_softmax(-1).gather(-1, labels_NA.unsqueeze(-1)).squeeze(-1)
    return LogProbs(tokens_NA.masked_fill(~mask_NA, 0.0), mask_NA, logits_NAV)


def sums(
    model: Any, rows: Sequence[Row], padding: int, batch: int, check: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """The log-probability of each row's answer, [N], without gradients; `batch` rows at a time, after a `check`."""
    found = torch.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda index: rows[index].length)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch):
            check()
            part = order[start : start + batch]
            found[part] = log_probs(model, [rows[index] for index in part], padding).sums.cpu()
    model.train(was_training)
    return found
