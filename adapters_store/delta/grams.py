"""Products of low-rank factors with each other: all that inner products, norms and recompression need of them.

The factors of T terms lie side by side. Shape suffixes: T terms, N the sum of their ranks, I input features, O output
features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from polyad.adapters_store.delta.low_rank import LowRank
from polyad.kernels import factors


@dataclass(frozen=True, eq=False)
class Grams:
    """A Aᵀ and Bᵀ B of `terms`, each in float64, without their scales; `products` are the inner products of each term
    with each.

    `native` are the terms as native code takes them; there are none where it does not.
    """

    terms: Sequence[LowRank]
    native: Sequence[factors.Term]
    a_NN: torch.Tensor
    b_NN: torch.Tensor
    products: Sequence[Sequence[float]]

    @classmethod
    def of(cls, terms: Sequence[LowRank]) -> "Grams":
        """Of terms of one shape, at least one."""
        native = [factors.Term(term.a, term.b, term.scale) for term in terms]
        if factors.takes(*(factor for term in terms for factor in (term.a, term.b))):
            return cls(terms, native, *factors.grams(native))
        a_NI, b_NO = _wide_a(terms), _wide_b(terms)
        a_NN, b_NN = a_NI @ a_NI.t(), b_NO @ b_NO.t()
        return cls(terms, [], a_NN, b_NN, _products(terms, a_NN, b_NN))

    @cached_property
    def a_NI(self) -> torch.Tensor:
        """A, in float64."""
        return _wide_a(self.terms)

    @cached_property
    def b_NO(self) -> torch.Tensor:
        """Bᵀ, in float64."""
        return _wide_b(self.terms)

    @property
    def scale_N(self) -> torch.Tensor:
        """The number by which each rank's column of B is still to be scaled, float64."""
        return _scale_N(self.terms)

    def weighted(self, weights: Sequence[float]) -> "Grams":
        """Of the terms, each times its weight."""
        terms = [LowRank(one.a, one.b, one.scale * weight) for one, weight in zip(self.terms, weights, strict=True)]
        native = [factors.Term(term.a, term.b, term.scale) for term in terms] if self.native else []
        products = [
            [product * weight * other for product, other in zip(row, weights, strict=True)]
            for row, weight in zip(self.products, weights, strict=True)
        ]
        return Grams(terms, native, self.a_NN, self.b_NN, products)


def _scale_N(terms: Sequence[LowRank]) -> torch.Tensor:
    scales = torch.tensor([term.scale for term in terms], dtype=torch.float64)
    return scales.repeat_interleave(torch.tensor([term.rank for term in terms]))


def _products(terms: Sequence[LowRank], a_NN: torch.Tensor, b_NN: torch.Tensor) -> list[list[float]]:
    """tr((B'ᵀ B)(A A'ᵀ)) of each term with each."""
    scale_N, ranks = _scale_N(terms), [term.rank for term in terms]
    both_NN = a_NN * b_NN * scale_N * scale_N[:, None]
    rows_TN = torch.stack([some.sum(0) for some in torch.split_with_sizes(both_NN, ranks)])
    found: list[list[float]] = torch.stack(
        [some.sum(1) for some in torch.split_with_sizes(rows_TN, ranks, 1)], 1
    ).tolist()
    return found


def _wide_a(terms: Sequence[LowRank]) -> torch.Tensor:
    return torch.cat([term.a for term in terms]).double()


def _wide_b(terms: Sequence[LowRank]) -> torch.Tensor:
    return torch.cat([term.b.t() for term in terms]).double()
