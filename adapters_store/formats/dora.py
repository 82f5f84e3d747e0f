"""DoRA (Liu et al. 2024, arXiv:2402.09353), as PEFT serves it.

    y = diag(g) (W + s B A) x + b0,   g_i = m_i / |row i of W + s B A|

which is a row scale and a low-rank term: dW = diag(g - 1) W + s (diag(g) B) A. The trained magnitude m is relative to
the norms, so W is needed. Shape suffixes: R rank, I input features, O output features.
"""

from collections.abc import Iterable

import torch

from polyad.adapters_store.delta import LowRank, ModuleDelta


def dora_delta(
    weight_blocks: Iterable[tuple[slice, torch.Tensor]], term: LowRank, magnitude: torch.Tensor
) -> ModuleDelta:
    """`weight_blocks` yields rows of W in float64, `magnitude` is m of shape [out]; computed in float64."""
    a_RI, b_OR = term.a.double(), term.b.double()
    norms_O = torch.empty(len(b_OR), dtype=torch.float64)
    for rows, w_OI in weight_blocks:
        norms_O[rows] = (w_OI + term.scale * (b_OR[rows] @ a_RI)).norm(dim=1)
    gain_O = magnitude.double() / norms_O
    return ModuleDelta(low_rank=LowRank(term.a, gain_O[:, None] * b_OR, term.scale), row_scale=gain_O - 1)
