"""What a composition is, once it is read: expressions over adapters.

Expressions are canonical: equal compositions are equal expressions with equal text, and `parse(str(e)) == e`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from polyad.adapters_store.errors import InvalidInput, shown
from polyad.adapters_store.names import PRODUCTION
from polyad.serve.compose.bounds import MAX_WEIGHT, WEIGHT_RULE
from polyad.serve.compose.options import Options, options_text
from polyad.serve.compose.weights import ExactSum, sum_text


@dataclass(frozen=True, slots=True)
class Reference:
    """An adapter, at a version number, an alias or a digest; or a saved composition."""

    adapter: str
    at: str = PRODUCTION

    def __str__(self) -> str:
        return self.adapter if self.at == PRODUCTION else f"{self.adapter}@{self.at}"


@dataclass(frozen=True, slots=True)
class Weighted:
    """A part of a blend; the weight is finite and not zero."""

    part: "Reference | Merge"
    weight: float


@dataclass(frozen=True, slots=True)
class Blend:
    """A weighted sum of deltas: distinct parts, in the order of their text. Made by `blend`, which keeps it so."""

    parts: tuple[Weighted, ...]

    def __str__(self) -> str:
        return sum_text((str(weighted.part), weighted.weight) for weighted in self.parts)


@dataclass(frozen=True, slots=True)
class Merge:
    """A delta that a method makes of others; their order is kept."""

    method: str
    arguments: "tuple[Delta, ...]"
    options: Options = ()

    def __str__(self) -> str:
        return _call(self.method, self.arguments, self.options)


@dataclass(frozen=True, slots=True)
class Fusion:
    """Models that run side by side and are combined in their logits: it can be no part of what makes a delta."""

    arguments: "tuple[Expression, ...]"
    options: Options = ()

    def __str__(self) -> str:
        return _call(FUSE, self.arguments, self.options)


FUSE = "fuse"

Delta: TypeAlias = Reference | Blend | Merge
Expression: TypeAlias = Delta | Fusion


def blend(weights: ExactSum[Reference | Merge], field: str) -> Delta:
    """The canonical form of a sum: a part alone if that is all there is. Raises InvalidInput for a weight too large."""
    parts = sorted((Weighted(part, weight) for part, weight in weights.rounded()), key=lambda one: str(one.part))
    for weighted in parts:
        if abs(weighted.weight) > MAX_WEIGHT:
            where = f"for {shown(str(weighted.part))}, multiplied and added up"
            raise InvalidInput(field, weighted.weight, WEIGHT_RULE, where)
    if len(parts) == 1 and parts[0].weight == 1:
        return parts[0].part
    return Blend(tuple(parts))


def _call(name: str, arguments: Iterable[Expression], options: Options) -> str:
    return f"{name}({', '.join(map(str, arguments))}{options_text(options)})"
