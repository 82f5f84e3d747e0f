"""Compositions as JSON in the bodies of requests: what handlers see of them."""

from typing import Any

import pytest

from tests.serve.api.conftest import BASE, Face, refused

BLEND = {"blend": [{"adapter": "support", "at": "canary", "weight": 0.7}, {"adapter": "tone", "weight": 0.3}]}
TEXT = "support@canary*0.7 + tone*0.3"
MERGE = {"merge": "ties", "of": [{"adapter": "a"}, {"adapter": "b"}], "options": {"density": 0.2}}


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ({"model": BLEND}, {"model": TEXT}),
        ({"model": {"adapter": "support"}}, {"model": "support"}),
        ({"model": MERGE}, {"model": "ties(a, b; density=0.2)"}),
        ({"composition": BLEND}, {"model": TEXT}),
        ({"composition": TEXT}, {"model": TEXT}),
        ({"composition": f"{BASE}:{TEXT}"}, {"model": TEXT}),
        ({"composition": BLEND, "model": None}, {"model": TEXT}),
        ({"composition": BLEND, "model": ""}, {"model": TEXT}),
        ({"composition": BLEND, "model": BASE}, {"model": TEXT}),
        ({"composition": {"blend": []}}, {"model": "()"}),
        ({"composition": None, "model": "support"}, {"model": "support"}),
    ],
)
def test_handlers_see_the_canonical_text(face: Face, body: Any, seen: Any) -> None:
    rest = {"prompt": "\u00e9" * 10, "logit_bias": {"5": -1.5}, "seed": 2**63, "stop": None}
    assert face.client.post("/v1/completions", json={**rest, **body}).json() == {**rest, **seen}


def test_in_a_large_body_as_well(face: Face) -> None:
    body = {"composition": BLEND, "prompt": "\u00e9" * 10**5}
    assert face.client.post("/v1/completions", json=body).json() == {"model": TEXT, "prompt": "\u00e9" * 10**5}


def test_length_is_that_of_what_the_handler_gets(face: Face) -> None:
    lengths = {face.client.post("/tokenize", json={"model": BLEND}).json(), len(f'{{"model": "{TEXT}"}}')}
    assert len(lengths) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"model": TEXT},
        {"model": "support"},
        {"model": 5},
        {"model": ["support"]},
        {"prompt": {"model": BLEND}},
        {"messages": [{"composition": BLEND}]},
        [{"model": BLEND}],
    ],
)
def test_anything_else_is_left_as_it_came(face: Face, body: Any) -> None:
    content = face.client.build_request("POST", "/tokenize", json=body).content
    assert face.client.post("/tokenize", json=body).json() == len(content)


@pytest.mark.parametrize(
    ("body", "kind", "param"),
    [
        ({"model": {}}, "InvalidInput", "model"),
        ({"model": {"adapter": "A"}}, "InvalidName", "model.adapter"),
        ({"model": {"blend": [{"adapter": "a", "weight": "1"}]}}, "InvalidInput", "model.blend.0.weight"),
        ({"composition": []}, "InvalidInput", "composition"),
        ({"composition": {"fuse": []}}, "InvalidInput", "composition.fuse"),
        ({"composition": "a +"}, "InvalidInput", "composition"),
        ({"composition": BLEND, "model": "support"}, "InvalidInput", "model"),
        ({"composition": BLEND, "model": f"{BASE}:support"}, "InvalidInput", "model"),
        ({"composition": BLEND, "model": BLEND}, "InvalidInput", "model"),
        ({"composition": BLEND, "model": 5}, "InvalidInput", "model"),
    ],
)
def test_refused_by_the_place_where_it_is(face: Face, body: Any, kind: str, param: str) -> None:
    refused(face.client.post("/v1/completions", json={**body, "prompt": "a"}), 400, kind, param)


def test_not_without_a_key(guarded: Face) -> None:
    refused(guarded.client.post("/v1/completions", json={"model": {}}), 401, "Unauthenticated", None)
