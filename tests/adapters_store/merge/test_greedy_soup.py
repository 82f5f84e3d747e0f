import pytest

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.merge import Recipe
from polyad.adapters_store.merge.greedy_soup import greedy_soup

VALUES = {"a": 0.5, "b": 0.9, "c": 0.7, "d": 0.9}
# What a soup of these is worth, beyond the mean of its members.
BONUS = {("b", "d"): 0.0, ("b", "c"): 0.2, ("a", "b", "c"): -0.5}


def worth(recipe: Recipe) -> float:
    members = tuple(sorted(recipe.sources))
    return sum(VALUES[name] for name in members) / len(members) + BONUS.get(members, -1.0)


def test_only_what_makes_it_better_is_kept() -> None:
    soup = greedy_soup(VALUES, worth)
    assert soup.recipe.sources == ("b", "c")
    assert soup.recipe.is_blend
    assert soup.score == pytest.approx(1.0)
    # d is as good as b alone, which is not better
    assert [(one.source, one.kept) for one in soup.decisions] == [("b", True), ("d", False), ("c", True), ("a", False)]


def test_the_best_alone_is_a_soup_of_one() -> None:
    assert greedy_soup({"a": 1.0}, worth).recipe.sources == ("a",)
    with pytest.raises(InvalidInput):
        greedy_soup({}, worth)
