"""The low-rank term of a delta, in plain torch.

Shape suffixes: T tokens, I input features, O output features, R rank.
"""

import torch

Rows = slice | torch.Tensor


def add_low_rank(y_TO: torch.Tensor, x_TI: torch.Tensor, a_RI: torch.Tensor, b_OR: torch.Tensor, rows: Rows) -> None:
    """y[rows] += x[rows] Aᵀ Bᵀ, in place. `y_TO` may be a view of some columns; the scale is already in B.

    `rows` is a slice, or the indices of the tokens (int64, each at most once). All tensors have one floating dtype; the
    product with A is rounded to it once, the sum with y is not.
    """
    if isinstance(rows, slice):
        y_TO[rows].addmm_(x_TI[rows] @ a_RI.t(), b_OR.t())
    else:
        y_TO.index_copy_(0, rows, torch.addmm(y_TO[rows], x_TI[rows] @ a_RI.t(), b_OR.t()))
