"""Products of low-rank factors with each other: all that inner products, norms and recompression need of them.

The factors of T terms lie side by side. Shape suffixes: T terms, N the sum of their ranks, I input features, O output
features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from polyad.adapters_store.delta.low_rank import LowRank


@dataclass(frozen=True, eq=False)
class Grams:
    """A, Bᵀ, A Aᵀ and Bᵀ B, each in float64, and each rank's number, by which its column of B is still to be scaled."""

    a_NI: torch.Tensor
    b_NO: torch.Tensor
    a_NN: torch.Tensor
    b_NN: torch.Tensor
    scale_N: torch.Tensor
    ranks: Sequence[int]

    @classmethod
    def of(cls, terms: Sequence[LowRank]) -> "Grams":
        """Of terms of one shape, at least one."""
        a_NI = torch.cat([term.a for term in terms]).double()
        b_NO = torch.cat([term.b.t() for term in terms]).double()
        ranks = [term.rank for term in terms]
        scale_N = _each_rank([term.scale for term in terms], ranks)
        return cls(a_NI, b_NO, a_NI @ a_NI.t(), b_NO @ b_NO.t(), scale_N, ranks)

    def weighted(self, weights: Sequence[float]) -> "Grams":
        """Of the terms, each times its weight."""
        scale_N = self.scale_N * _each_rank(weights, self.ranks)
        return Grams(self.a_NI, self.b_NO, self.a_NN, self.b_NN, scale_N, self.ranks)

    def products(self) -> list[list[float]]:
        """The inner product of each term with each: tr((B'ᵀ B)(A A'ᵀ))."""
        both_NN = self.a_NN * self.b_NN * self.scale_N * self.scale_N[:, None]
        ends = list(pairwise(accumulate(self.ranks, initial=0)))
        rows_TN = torch.stack([both_NN[start:end].sum(0) for start, end in ends])
        found: list[list[float]] = torch.stack([rows_TN[:, start:end].sum(1) for start, end in ends], 1).tolist()
        return found


def _each_rank(numbers: Sequence[float], ranks: Sequence[int]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64).repeat_interleave(torch.tensor(ranks))
