"""Weights: decimals while they are multiplied and added up, so that 0.1 + 0.2 is 0.3 in any order; doubles after."""

from collections.abc import Hashable, Iterable
from decimal import Context, Decimal
from typing import Generic, TypeVar

from polyad.serve.compose.number import number_text

T = TypeVar("T", bound=Hashable)

ZERO, ONE = Decimal(0), Decimal(1)

# Nothing that fits into a composition needs as many digits: no product and no sum is ever rounded.
_EXACT = Context(prec=100_000)


def exact(weight: float) -> Decimal:
    """The weight as the shortest decimal that reads back as it: 0.1 is a tenth."""
    return Decimal(repr(weight))


def product(first: Decimal, second: Decimal) -> Decimal:
    """Exactly their product."""
    return _EXACT.multiply(first, second)


class ExactSum(Generic[T]):
    """A weighted sum of things in the making."""

    def __init__(self) -> None:
        self._weights: dict[T, Decimal] = {}

    def add(self, thing: T, weight: Decimal = ONE) -> None:
        self._weights[thing] = _EXACT.add(self._weights.get(thing, ZERO), weight)

    def add_all(self, other: "ExactSum[T]", factor: Decimal = ONE) -> None:
        """Add another sum, each of its weights times the factor."""
        for thing, weight in other._weights.items():
            self.add(thing, product(weight, factor))

    def scale(self, factor: Decimal) -> None:
        self._weights = {thing: product(weight, factor) for thing, weight in self._weights.items()}

    def rounded(self) -> list[tuple[T, float]]:
        """The things whose weight is not zero, with the double nearest to it."""
        return [(thing, weight) for thing, decimal in self._weights.items() if (weight := float(decimal))]


def sum_text(terms: Iterable[tuple[str, float]]) -> str:
    """A weighted sum as compositions write it: `a*0.7 - b*0.3`; the empty one is `()`."""
    text = ""
    for name, weight in terms:
        if text:
            text += f" {'-' if weight < 0 else '+'} {_weighted(name, abs(weight))}"
        else:
            text = _weighted(name, weight)
    return text or "()"


def _weighted(name: str, weight: float) -> str:
    return name if weight == 1 else f"{name}*{number_text(weight)}"
