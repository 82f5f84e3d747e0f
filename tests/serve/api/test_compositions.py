"""/v1/compositions: what each route answers, and how each mistake is refused."""

from typing import Any

import httpx
import pytest

from tests.serve.api.conftest import BASE, Face, refused

BLEND = {"blend": [{"adapter": "with-a", "weight": 0.7}, {"adapter": "with-b", "weight": 0.3}]}
TEXT = "with-a*0.7 + with-b*0.3"


@pytest.fixture(autouse=True)
def adapters(face: Face) -> None:
    for adapter in ("with-a", "with-b"):
        if face.client.get(f"/v1/adapters/{adapter}").status_code == 404:
            face.push(adapter).raise_for_status()


def put(face: Face, name: str, **body: Any) -> httpx.Response:
    return face.client.put(f"/v1/compositions/{name}", json=body)


@pytest.mark.parametrize(
    "expression", [TEXT, "with-b*0.3+with-a*0.7", f"{BASE}:({TEXT})", BLEND], ids=["text", "other text", "base", "json"]
)
def test_save_show_list_and_delete(face: Face, name: str, expression: Any) -> None:
    saved = put(face, name, expression=expression)
    assert saved.status_code == 200, saved.text
    composition = saved.json()
    assert (composition["object"], composition["name"], composition["expression"]) == ("composition", name, TEXT)
    assert face.client.get(f"/v1/compositions/{name}").json() == composition
    assert composition in face.client.get("/v1/compositions", params={"limit": 1000}).json()["data"]
    deleted = face.client.delete(f"/v1/compositions/{name}").json()
    assert deleted == {"object": "deleted", "composition": name}
    for method in ("GET", "DELETE"):
        refused(face.client.request(method, f"/v1/compositions/{name}"), 404, "UnknownComposition", "composition")


def test_change_keeps_when_it_was_made(face: Face, name: str) -> None:
    first = put(face, name, expression="with-a").json()
    second = put(face, name, expression="with-b").json()
    assert second == {**first, "expression": "with-b"}


def test_compares_and_sets(face: Face, name: str) -> None:
    message = refused(put(face, name, expression="with-a", if_current=TEXT), 409, "CompositionChanged", "if_current")
    assert f"composition '{name}' does not exist, expected '{TEXT}'" in message
    assert put(face, name, expression=TEXT, if_current=None).status_code == 200
    refused(put(face, name, expression="with-a", if_current=None), 409, "CompositionChanged", "if_current")
    refused(put(face, name, expression="with-a", if_current="with-b"), 409, "CompositionChanged", "if_current")
    assert put(face, name, expression="with-a", if_current=BLEND).status_code == 200
    assert put(face, name, expression="with-b").status_code == 200
    assert face.client.get(f"/v1/compositions/{name}").json()["expression"] == "with-b"


def test_adapters_and_compositions_have_different_names(face: Face, name: str) -> None:
    put(face, name, expression="with-a").raise_for_status()
    assert "is a saved composition" in refused(face.push(name), 409, "Conflict", "name")
    assert "is an adapter" in refused(put(face, "with-a", expression="with-b"), 409, "Conflict", "name")
    refused(face.client.get(f"/v1/adapters/{name}"), 404, "UnknownAdapter", "adapter")


def test_page_by_page(face: Face) -> None:
    names = [f"list-{letter}" for letter in "abcde"]
    for each in names:
        put(face, each, expression="with-a").raise_for_status()
    found, after = [], "list-"
    while after is not None:
        page = face.client.get("/v1/compositions", params={"limit": 2, "after": after}).json()
        assert len(page["data"]) <= 2
        found += [composition["name"] for composition in page["data"]]
        after = page["after"]
    assert [each for each in found if each.startswith("list-")] == names


@pytest.mark.parametrize(
    ("params", "param", "kind"),
    [
        ({"limit": 0}, "limit", "InvalidInput"),
        ({"limit": 1001}, "limit", "InvalidInput"),
        ({"after": "../etc"}, "after", "InvalidName"),
    ],
)
def test_cursors_and_limits_are_checked(face: Face, params: dict[str, Any], param: str, kind: str) -> None:
    refused(face.client.get("/v1/compositions", params=params), 400, kind, param)


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        ({}, 400, "InvalidInput", "expression"),
        ([], 400, "InvalidInput", "body"),
        ({"expression": None}, 400, "InvalidInput", "expression"),
        ({"expression": 5}, 400, "InvalidInput", "expression"),
        ({"expression": ""}, 400, "InvalidName", "expression"),
        ({"expression": "With-a"}, 400, "InvalidName", "expression"),
        ({"expression": "with-a +"}, 400, "InvalidInput", "expression"),
        ({"expression": "with-a*2000"}, 400, "InvalidInput", "expression"),
        ({"expression": "tise(with-a, with-b)"}, 400, "Unsupported", "expression"),
        ({"expression": "ties(with-a, with-b; density=2)"}, 400, "InvalidInput", "expression"),
        ({"expression": {"fuse": [{"adapter": "with-a"}]}}, 400, "InvalidInput", "expression"),
        ({"expression": {}}, 400, "InvalidInput", "expression"),
        ({"expression": {"blend": [{"adapter": 1}]}}, 400, "InvalidInput", "expression.blend.0.adapter"),
        ({"expression": {"blend": [{"adapter": "a", "wait": 1}]}}, 400, "InvalidInput", "expression.blend.0.wait"),
        ({"expression": "nobody"}, 404, "UnknownModel", "expression"),
        ({"expression": "with-a + with-b@v9"}, 404, "UnknownModel", "expression"),
        ({"expression": "with-a", "if_current": "+"}, 400, "InvalidInput", "if_current"),
        ({"expression": "with-a", "if_current": {"adapter": "A"}}, 400, "InvalidName", "if_current.adapter"),
        ({"expression": "with-a", "if_curent": None}, 400, "InvalidInput", "if_curent"),
        ({"composition": BLEND}, 400, "InvalidInput", "expression"),
    ],
)
def test_what_cannot_be_saved(face: Face, name: str, body: Any, status: int, kind: str, param: str) -> None:
    answer = face.client.put(f"/v1/compositions/{name}", json=body)
    refused(answer, status, kind, param)
    refused(face.client.get(f"/v1/compositions/{name}"), 404, "UnknownComposition", "composition")


@pytest.mark.parametrize("bad", ["a..b", "Support", "a b", "-a", "a" * 64, BASE])
def test_names_are_checked(face: Face, bad: str) -> None:
    refused(put(face, bad, expression="with-a"), 400, "InvalidName", "name")


def test_circles_are_refused(face: Face, name: str) -> None:
    put(face, name, expression="with-a").raise_for_status()
    put(face, f"{name}-2", expression=f"{name}*0.5").raise_for_status()
    message = refused(put(face, name, expression=f"{name}-2"), 409, "Conflict", "expression")
    assert f"{name} -> {name}-2 -> {name}" in message


def test_answered_while_the_engine_is_away(face: Face, name: str) -> None:
    face.engine.ready = False
    try:
        assert put(face, name, expression="with-a").status_code == 200
        assert face.client.get(f"/v1/compositions/{name}").status_code == 200
    finally:
        face.engine.ready = True
