"""Adapters that were trained against a residual: PiSSA (arXiv:2404.02948), OLoRA (arXiv:2406.01775), CorDA
(arXiv:2406.05223).

Before training, s B0 A0 was subtracted from W. Against the unchanged W the adapter is dW = s (B A - B0 A0), of twice
the rank; A0 and B0 are the adapter as it was saved before training, by the same names.
"""

import torch

from polyad.adapters_store.delta import LowRank


def without_initial(term: LowRank, initial_a: torch.Tensor, initial_b: torch.Tensor) -> LowRank:
    """[A; A0] and [B, -B0], with the scale of the trained term."""
    return LowRank(torch.cat([term.a, initial_a]), torch.cat([term.b, -initial_b], 1), term.scale)
