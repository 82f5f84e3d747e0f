"""The JSON form: the same language as the text, the same bounds, and errors that name the place."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from polyad.adapters_store.errors import InvalidInput
from polyad.adapters_store.names import MODEL_RULE, NAME_RULE, VERSION_RULE
from polyad.serve.compose import Expression, from_json, parse, to_json
from tests.fixtures.compositions import expressions, json_values
from tests.fixtures.fuzzing import fuzz


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"adapter": "support"}, "support"),
        ({"adapter": "support", "at": "canary"}, "support@canary"),
        ({"adapter": "support", "at": "production", "weight": 1.0}, "support"),
        ({"adapter": "support", "weight": -0.5}, "support*-0.5"),
        (
            {"blend": [{"adapter": "support", "at": "canary", "weight": 0.7}, {"adapter": "tone", "weight": 0.3}]},
            "support@canary*0.7 + tone*0.3",
        ),
        ({"blend": []}, "()"),
        ({"blend": [{"adapter": "a"}], "weight": 2}, "a*2"),
        ({"blend": [{"blend": [{"adapter": "a"}, {"adapter": "b"}], "weight": 0.5}, {"adapter": "a"}]}, "(a+b)*0.5+a"),
        ({"blend": [{"adapter": "a", "weight": 0.1}, {"adapter": "a", "weight": 0.2}]}, "a*0.3"),
        (
            {"merge": "ties", "of": [{"adapter": "a"}, {"adapter": "b", "weight": 0.5}], "options": {"density": 0.2}},
            "ties(a, b*0.5; density=0.2)",
        ),
        ({"blend": [{"merge": "ties", "of": [{"adapter": "a"}], "weight": 0.5}]}, "ties(a)*0.5"),
        ({"fuse": [{"adapter": "a"}, {"blend": []}], "options": {"mode": "static"}}, "fuse(a, (); mode=static)"),
        ({"fuse": [{"fuse": [{"adapter": "a"}]}]}, "fuse(fuse(a))"),
        (
            {"merge": "t", "of": [{"adapter": "a"}], "options": {"a": True, "b": "false", "c": 1.0, "d": "0.50"}},
            "t(a; a=true, b=false, c=1, d=0.5)",
        ),
    ],
)
def test_means_the_same_as_the_text(form: Any, text: str) -> None:
    assert from_json(form) == parse(text)
    assert from_json(to_json(parse(text))) == parse(text)


@given(expressions)
@settings(deadline=None)
def test_expression_comes_back_from_its_json_form(expression: Expression) -> None:
    if len(str(expression)) <= 1024:
        assert from_json(json.loads(json.dumps(to_json(expression)))) == expression


DELTA = "an object with adapter, with blend, or with merge and of"
FORM = f"{DELTA}; or one with fuse"
ARRAY = "an array of 1 to 64 compositions"
WEIGHT = "a number from -1000 to 1000"
VALUE = f"a finite number (a whole one within 64 bits), true, false, or a word: {NAME_RULE}"
A: dict[str, Any] = {"adapter": "a"}

REFUSED: list[tuple[Any, str, object, str]] = [
    (None, "model", None, FORM),
    ("a", "model", "a", FORM),
    ([A], "model", "an array", FORM),
    ({}, "model", "an object", FORM),
    ({"name": "a"}, "model", "an object", FORM),
    ({"adapter": 5}, "model.adapter", 5, "a string"),
    ({"adapter": None}, "model.adapter", None, "a string"),
    ({"adapter": "A"}, "model.adapter", "A", MODEL_RULE),
    ({"adapter": "a@v1"}, "model.adapter", "a@v1", MODEL_RULE),
    ({"adapter": "a*2"}, "model.adapter", "a*2", MODEL_RULE),
    ({"adapter": "a", "at": "V1"}, "model.at", "V1", VERSION_RULE),
    ({"adapter": "a", "at": 1}, "model.at", 1, "a string"),
    ({"adapter": "a", "version": "v1"}, "model.version", "version", "with adapter: at, weight"),
    ({"adapter": "a", "blend": []}, "model.blend", "blend", "with adapter: at, weight"),
    ({"adapter": "a", "weight": "1"}, "model.weight", "1", WEIGHT),
    ({"adapter": "a", "weight": True}, "model.weight", True, WEIGHT),
    ({"adapter": "a", "weight": None}, "model.weight", None, WEIGHT),
    ({"adapter": "a", "weight": 1000.5}, "model.weight", 1000.5, WEIGHT),
    ({"adapter": "a", "weight": float("nan")}, "model.weight", float("nan"), WEIGHT),
    ({"adapter": "a", "weight": float("inf")}, "model.weight", float("inf"), WEIGHT),
    ({"adapter": "a", "weight": 10**9999}, "model.weight", "a number beyond 64 bits", WEIGHT),
    ({"blend": A}, "model.blend", "an object", "an array of 0 to 64 compositions"),
    ({"blend": [A, "b"]}, "model.blend.1", "b", DELTA),
    ({"blend": [A] * 65}, "model.blend", "65 items", "an array of 0 to 64 compositions"),
    ({"blend": [A, {"adapter": "b", "weight": []}]}, "model.blend.1.weight", "an array", WEIGHT),
    ({"blend": [{"fuse": [A]}]}, "model.blend.0", "an object", DELTA),
    ({"blend": [{"adapter": "a", "weight": 600}] * 2}, "model", 1200.0, WEIGHT),
    ({"merge": "ties"}, "model.of", None, ARRAY),
    ({"merge": "ties", "of": []}, "model.of", "0 items", ARRAY),
    ({"merge": "ties", "of": [A, {"fuse": [A]}]}, "model.of.1", "an object", DELTA),
    ({"merge": "Ties", "of": [A]}, "model.merge", "Ties", NAME_RULE),
    ({"merge": ["ties"], "of": [A]}, "model.merge", "an array", "a string"),
    ({"merge": "fuse", "of": [A]}, "model.merge", "fuse", 'the name of a method; a fusion is {"fuse": [...]}'),
    ({"merge": "t", "of": [A], "options": []}, "model.options", "an array", "an object with at most 16 options"),
    (
        {"merge": "t", "of": [A], "options": {f"x{n}": 1 for n in range(17)}},
        "model.options",
        "17 options",
        "an object with at most 16 options",
    ),
    ({"merge": "t", "of": [A], "options": {"X": 1}}, "model.options", "X", NAME_RULE),
    ({"merge": "t", "of": [A], "options": {"x": None}}, "model.options.x", None, VALUE),
    ({"merge": "t", "of": [A], "options": {"x": "a b"}}, "model.options.x", "a b", VALUE),
    ({"merge": "t", "of": [A], "options": {"x": 2**63}}, "model.options.x", 2**63, VALUE),
    ({"merge": "t", "of": [A], "options": {"x": [1]}}, "model.options.x", "an array", VALUE),
    ({"fuse": []}, "model.fuse", "0 items", ARRAY),
    ({"fuse": [A, {"blend": [{}]}]}, "model.fuse.1.blend.0", "an object", DELTA),
    ({"fuse": [A], "weight": 1}, "model.weight", "weight", "with fuse: options"),
    ({"fuse": [A], "blend": []}, "model.blend", "blend", "with fuse: options"),
]


@pytest.mark.parametrize(("form", "field", "came", "allowed"), REFUSED, ids=[case[1] for case in REFUSED])
def test_refused_by_the_place_where_it_is(form: Any, field: str, came: object, allowed: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        from_json(form)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: got {came!r}")
    assert str(refused.value).endswith(f", allowed: {allowed}")


def nested(depth: int, key: str) -> Any:
    form: Any = dict(A)
    for _ in range(depth):
        form = {"merge": "t", "of": [form]} if key == "of" else {key: [form]}
    return form


def many(count: int) -> list[Any]:
    return [{"blend": [{"adapter": f"a{part}-{n}"} for n in range(count // 4)]} for part in range(4)]


BOUNDS = {
    # A blend within a blend is a parenthesis; the first is none.
    "parentheses": (nested(10, "blend"), nested(9, "blend"), "at most 8 compositions within each other"),
    "calls": (nested(9, "of"), nested(8, "of"), "at most 8 compositions within each other"),
    "fusions": (nested(9, "fuse"), nested(8, "fuse"), "at most 8 compositions within each other"),
    "terms": ({"blend": [*many(64), A]}, {"blend": many(64)}, "at most 64 names and methods in all"),
    "written out": (
        {"blend": [{"adapter": f"{'a' * 50}{n}"} for n in range(20)]},
        {"blend": [{"adapter": f"{'a' * 50}{n}"} for n in range(18)]},
        "at most 1024 characters",
    ),
}


@pytest.mark.parametrize("what", BOUNDS)
def test_bounds_are_those_of_the_text(what: str) -> None:
    beyond, within, message = BOUNDS[what]
    with pytest.raises(InvalidInput, match=message):
        from_json(beyond)
    assert parse(str(from_json(within))) == from_json(within)


def test_field_is_the_callers() -> None:
    with pytest.raises(InvalidInput) as refused:
        from_json({"blend": [{"adapter": "a", "weight": "x"}]}, "composition")
    assert refused.value.field == "composition.blend.0.weight"


@fuzz(300)
@given(json_values | st.dictionaries(st.integers(), json_values, min_size=1))
@example(nested(10**5, "blend"))
@example(nested(10**5, "of"))
@example({"adapter": nested(10**5, "of")})
@example({10**9999: 1, "adapter": "a"})
@example({"blend": [{"adapter": "a", "weight": 5e-324}] * 64, "weight": 5e-324})
@example({"adapter": "a", "x" * 10**6: 1})
def test_no_value_makes_the_reader_raise_anything_else(value: Any) -> None:
    try:
        expression = from_json(value)
    except InvalidInput as error:
        assert len(str(error)) < 900
        return
    assert parse(str(expression)) == expression
