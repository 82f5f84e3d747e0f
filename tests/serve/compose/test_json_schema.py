"""The schema says what the reader takes."""

from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.compose import Expression, from_json, to_json
from polyad.serve.compose.json_schema import COMPOSITION, SCHEMAS, reference_to
from tests.fixtures.compositions import expressions, json_values

VALIDATOR = Draft202012Validator({**reference_to(COMPOSITION), "components": {"schemas": SCHEMAS}})


def test_schemas_are_valid() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", SCHEMAS)
def test_example_fits_and_is_taken(name: str) -> None:
    schema = {**reference_to(name), "components": {"schemas": SCHEMAS}}
    assert list(Draft202012Validator(schema).iter_errors(SCHEMAS[name]["example"])) == []
    from_json(SCHEMAS[name]["example"])


@given(expressions)
@settings(deadline=None)
def test_what_can_be_said_fits(expression: Expression) -> None:
    assert VALIDATOR.is_valid(to_json(expression))


@given(json_values)
@settings(max_examples=300, deadline=None)
def test_what_is_taken_fits(value: Any) -> None:
    try:
        from_json(value)
    except InvalidInput:
        return
    assert VALIDATOR.is_valid(value)


@pytest.mark.parametrize(
    "form",
    [
        {},
        "a",
        {"adapter": "A"},
        {"adapter": "a", "version": "v1"},
        {"adapter": "a", "blend": []},
        {"adapter": "a", "weight": 1001},
        {"blend": [{"fuse": [{"adapter": "a"}]}]},
        {"merge": "ties", "of": []},
        {"merge": "ties", "of": [{"adapter": "a"}], "options": {"density": [1]}},
        {"fuse": [{"adapter": "a"}], "weight": 1},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(form: Any) -> None:
    assert not VALIDATOR.is_valid(form)
    with pytest.raises(InvalidInput):
        from_json(form)
