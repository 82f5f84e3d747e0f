"""The losses, as functions of log-probabilities: [N] sums over the tokens of each answer.

DPO: arXiv 2305.18290; IPO: 2310.12036; robust DPO: 2403.00409; KTO: 2402.01306. The same numbers as TRL 1.16's.
"""

import torch
from torch.nn.functional import logsigmoid

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.learn.train.log_probs import LogProbs


def sft(said: LogProbs) -> torch.Tensor:
    """Mean negative log-probability of all tokens of all answers."""
    return -said.sums.sum() / said.counts.sum()


def dpo(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    beta: float,
    kind: str = "sigmoid",
    smoothing: float = 0.0,
    lengths: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """-log sigmoid(beta D), D = (log p - log p_ref)(chosen) - the same of rejected. `ipo` takes means over tokens, for
    which it needs the `lengths` of chosen and rejected. With the model as its own reference it is ln 2."""
    ratio_chosen, ratio_rejected = chosen - reference_chosen, rejected - reference_rejected
    if kind == "ipo":
        if lengths is None:
            raise InvalidInput("lengths", None, "the numbers of tokens, for ipo")
        difference = ratio_chosen / lengths[0] - ratio_rejected / lengths[1]
        return ((difference - 1 / (2 * beta)) ** 2).mean()
    difference = beta * (ratio_chosen - ratio_rejected)
    loss = -(1 - smoothing) * logsigmoid(difference)
    if kind == "robust":
        return ((loss + smoothing * logsigmoid(-difference)) / (1 - 2 * smoothing)).mean()
    return (loss - smoothing * logsigmoid(-difference)).mean()


def kto_baseline(mismatched: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """z: how far the model has moved, seen at answers to other prompts; no gradient. InvalidInput for one row."""
    if len(mismatched) < 2:
        raise InvalidInput("batch", len(mismatched), "at least two examples, for KTO")
    return (mismatched - reference).mean().detach().clamp(min=0)


def kto(
    said: torch.Tensor,
    reference: torch.Tensor,
    desirable: torch.Tensor,
    baseline: torch.Tensor,
    beta: float,
    weights: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """w_D (1 - sigmoid(beta (r - z))) for liked answers, w_U (1 - sigmoid(beta (z - r))) for others; r = log p/q."""
    ratio = said - reference
    liked = weights[0] * (1 - torch.sigmoid(beta * (ratio - baseline)))
    disliked = weights[1] * (1 - torch.sigmoid(beta * (baseline - ratio)))
    return torch.where(desirable, liked, disliked).mean()
