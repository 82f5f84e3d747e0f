from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.serve.compose.weights import ExactSum, exact, product, sum_text

floats = st.floats(-1000, 1000, allow_nan=False)


@given(st.lists(st.tuples(st.sampled_from("ab"), floats), max_size=8), floats, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_sum_is_what_fractions_say_in_whatever_order(
    terms: list[tuple[str, float]], factor: float, chance: object
) -> None:
    expected: dict[str, Fraction] = {}
    for name, weight in terms:
        expected[name] = expected.get(name, Fraction(0)) + Fraction(repr(weight)) * Fraction(repr(factor))
    rounded = {name: float(weight) for name, weight in expected.items() if float(weight)}
    chance.shuffle(terms)  # type: ignore[attr-defined]
    one, other = ExactSum[str](), ExactSum[str]()
    for name, weight in terms:
        one.add(name, exact(weight))
        other.add(name, product(exact(weight), exact(factor)))
    one.scale(exact(factor))
    assert dict(one.rounded()) == dict(other.rounded()) == rounded


def test_tenths_are_tenths() -> None:
    sum_ = ExactSum[str]()
    for weight in (0.1, 0.2, -0.3):
        sum_.add("a", exact(weight))
    assert sum_.rounded() == []


def test_sum_can_be_added_with_a_factor() -> None:
    inner, outer = ExactSum[str](), ExactSum[str]()
    inner.add("a", exact(0.5))
    outer.add("a")
    outer.add_all(inner, exact(-2.0))
    outer.add_all(inner, exact(0.2))
    assert outer.rounded() == [("a", 0.1)]


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ([], "()"),
        ([("a", 1.0)], "a"),
        ([("a", -1.0)], "a*-1"),
        ([("a", 0.7), ("b", 0.3)], "a*0.7 + b*0.3"),
        ([("a", 1.0), ("b", -1.0), ("c", -0.5)], "a - b - c*0.5"),
    ],
)
def test_text(terms: list[tuple[str, float]], text: str) -> None:
    assert sum_text(terms) == text
