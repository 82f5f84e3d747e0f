"""Greedy soup (arXiv 2203.05482): one adapter after the other, best first, is kept in the mean if the mean gets better.

The scorer is the caller's: it serves a soup (a blend, nothing is materialised) and says how good it is, more is better.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge.recipe import Input, Recipe


@dataclass(frozen=True)
class Decision:
    """Whether a source was taken in; `score` is that of the soup with it."""

    source: str
    score: float
    kept: bool


@dataclass(frozen=True)
class GreedySoup:
    """The uniform soup of what was kept, and how it came about."""

    recipe: Recipe
    score: float
    decisions: Sequence[Decision]


def greedy_soup(scores: Mapping[str, float], score: Callable[[Recipe], float]) -> GreedySoup:
    """`scores` are those of the sources alone; of equal ones the first in order of names goes first.

    A soup must be better than the best so far, as in the authors' code; as good is not enough. Raises InvalidInput
    without any source.
    """
    if not scores:
        raise InvalidInput("scores", scores, "at least one source")
    first, *others = sorted(scores, key=lambda source: (-scores[source], source))
    kept, best = [first], scores[first]
    decisions = [Decision(first, best, True)]
    for source in others:
        reached = score(_soup([*kept, source]))
        better = reached > best
        decisions.append(Decision(source, reached, better))
        if better:
            kept.append(source)
            best = reached
    return GreedySoup(_soup(kept), best, decisions)


def _soup(sources: Sequence[str]) -> Recipe:
    return Recipe(method="soup", inputs=tuple(Input(((source, 1.0),)) for source in sources))
