"""What one delta changes in one slice of a linear layer.

Shape suffixes: I input features, O output features, R rank, N stored values, O1 output features plus one.
"""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, eq=False)
class SparseRows:
    """A sparse matrix [O, I] by rows: the values of row o are those from `starts_O1[o]` to before `starts_O1[o + 1]`.

    `starts_O1` and `columns_N` are int32; columns ascend within a row.
    """

    starts_O1: torch.Tensor
    columns_N: torch.Tensor
    values_N: torch.Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Terms:
    """The change of y = W x + b0 (design.md section 3): dW = diag(u) W + B A + S + W diag(v), db = c.

    `b_OR` and `a_RI` come together, any scale is in b. None is no change.
    """

    a_RI: torch.Tensor | None = None
    b_OR: torch.Tensor | None = None
    sparse: SparseRows | None = None
    row_scale_O: torch.Tensor | None = None
    column_scale_I: torch.Tensor | None = None
    bias_O: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return 0 if self.a_RI is None else self.a_RI.shape[0]

    def copied(self) -> "Terms":
        """The same with factors in memory of their own."""
        a_RI, b_OR = (None if factor is None else factor.clone() for factor in (self.a_RI, self.b_OR))
        return replace(self, a_RI=a_RI, b_OR=b_OR)

    @property
    def adds(self) -> bool:
        """Whether there is more to do than to scale the input columns."""
        return any(term is not None for term in (self.a_RI, self.sparse, self.row_scale_O, self.bias_O))
