"""The canonical form: equal meaning, equal text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.serve.compose import Blend, Expression, Fusion, Merge, Reference, parse
from tests.fixtures.compositions import Meaning, expressions, meanings, texts


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("b + a", "a + b"),
        ("a*0.5 + a*0.5", "a"),
        ("a@production + a", "a*2"),
        ("a@v1 + a", "a + a@v1"),
        ("(a + b)*0.5 - c", "a*0.5 + b*0.5 - c"),
        ("((a + b*2)*0.5 - c)*-2", "a*-1 - b*2 + c*2"),
        ("a*0.1 + a*0.2", "a*0.3"),
        ("a*0.3 - a*0.1 - a*0.2 + b", "b"),
        ("a - a", "()"),
        ("a*0", "()"),
        ("()", "()"),
        ("()*5 + a - ()", "a"),
        ("a*5e-324*0.1", "()"),
        ("a*1e-5", "a*1e-05"),
        ("a*-.5", "a*-0.5"),
        ("a*0.70000000000000000000001", "a*0.7"),
        ("a*0.5*4", "a*2"),
        ("b*0.5-a", "a*-1 + b*0.5"),
        ("ties(b,a)", "ties(b, a)"),
        ("ties(a)*0.5 + ties( a )*0.5", "ties(a)"),
        ("ties(a;x=1) + ties(a;x=1.0)", "ties(a; x=1)*2"),
        ("ties(a;x=1) + ties(a;x=true)", "ties(a; x=1) + ties(a; x=true)"),
        ("ties(a;seed=1e3,density=.20)", "ties(a; density=0.2, seed=1000)"),
        ("ties(b - a*2 + b; x=y)", "ties(a*-2 + b*2; x=y)"),
        ("fuse((b + a)*0.5, c;mode=static)", "fuse(a*0.5 + b*0.5, c; mode=static)"),
        ("(fuse(a))", "fuse(a)"),
        ("fuse(fuse(a, b), ties(c))", "fuse(fuse(a, b), ties(c))"),
        ("ties", "ties"),
        ("fuse", "fuse"),
        ("fuse + ties@v2", "fuse + ties@v2"),
        ("ties (a)", "ties(a)"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


@given(expressions)
@settings(deadline=None)
def test_text_reads_back_as_the_same_expression(expression: Expression) -> None:
    text = str(expression)
    if len(text) <= 1024:
        assert parse(text) == expression
        assert hash(parse(text)) == hash(expression)


@given(st.data(), meanings, meanings)
@settings(deadline=None)
def test_equal_meaning_is_equal_text(data: st.DataObject, one: Meaning, other: Meaning) -> None:
    first, again, second = (data.draw(texts(meaning)) for meaning in (one, one, other))
    assert str(parse(first)) == str(parse(again))
    assert (str(parse(first)) == str(parse(second))) == (one == other)
    assert (parse(first) == parse(second)) == (one == other)
    assert weights(parse(first)) == {name: float(weight) for name, weight in one.items()}


def weights(expression: Expression) -> dict[str, float]:
    if isinstance(expression, Reference):
        return {expression.adapter: 1.0}
    assert isinstance(expression, Blend)
    return {str(weighted.part): weighted.weight for weighted in expression.parts}


def test_nodes() -> None:
    expression = parse("fuse(a@v1*0.5, ties(b; density=0.2, mode=x))")
    merge = Merge("ties", (Reference("b"),), (("density", 0.2), ("mode", "x")))
    assert isinstance(expression, Fusion)
    assert expression.arguments[1] == merge
    assert weights(expression.arguments[0]) == {"a@v1": 0.5}
    assert expression.options == ()
