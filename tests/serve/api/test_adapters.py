"""/v1/adapters: what each route answers, and how each mistake is refused."""

import concurrent.futures
import json
from typing import Any

import httpx
import pytest

from polyad.adapters_store.errors import EngineUnavailable, LoadFailed
from tests.serve.api.conftest import BASE, Face, refused

LOOK_ALIKES = ["\u0455upport", "\uff41", "suppor\u0074\u0301", "support\u200b"]


def test_push_show_and_list(face: Face, name: str) -> None:
    pushed = face.push(name)
    assert pushed.status_code == 201
    version = pushed.json()
    assert version == face.client.get(f"/v1/adapters/{name}/versions/v1").json()
    assert (version["object"], version["adapter"], version["version"]) == ("adapter.version", name, "v1")
    assert (version["rank"], version["targets"], version["source"]) == (4, ["q_proj", "v_proj"], "upload")
    assert version["aliases"] == ["production"]
    shown = face.client.get(f"/v1/adapters/{name}").json()
    assert (shown["versions"], shown["latest"], shown["aliases"]) == (1, "v1", {"production": "v1"})
    assert shown in face.client.get("/v1/adapters", params={"limit": 1000}).json()["data"]
    assert face.client.get(f"/v1/adapters/{name}/versions").json() == {
        "object": "list",
        "data": [version],
        "after": None,
    }


@pytest.mark.parametrize("reference", ["v1", "production", "digest"])
def test_version_is_shown_by_number_alias_and_digest(face: Face, name: str, reference: str) -> None:
    version = face.push(name).json()
    wanted = version["digest"][:12] if reference == "digest" else reference
    assert face.client.get(f"/v1/adapters/{name}/versions/{wanted}").json() == version


def test_same_bytes_again_are_the_same_version(face: Face, name: str) -> None:
    files = face.files()
    first, again = face.push(name, files), face.push(name, files)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    assert face.client.get(f"/v1/adapters/{name}").json()["versions"] == 1


def test_same_bytes_at_the_same_time_are_one_version(face: Face, name: str) -> None:
    files = face.files()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: face.push(name, files), range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
    assert {answer.json()["version"] for answer in answers} == {"v1"}


def test_push_with_an_alias_points_it_there_once_it_is_loaded(face: Face, name: str) -> None:
    face.push(name)
    face.engine.warmed.clear()
    assert face.push(name, alias="canary").json()["aliases"] == ["canary"]
    assert face.engine.warmed == [f"{name}@v2"]
    assert face.client.get(f"/v1/adapters/{name}").json()["aliases"] == {"canary": "v2", "production": "v1"}


@pytest.mark.parametrize(("failure", "status"), [(LoadFailed("no room"), 500), (EngineUnavailable("away"), 503)])
def test_alias_stays_where_it_was_if_the_version_cannot_be_loaded(
    face: Face, name: str, failure: Any, status: int
) -> None:
    face.push(name)
    face.push(name)
    face.engine.failure = failure
    try:
        answer = face.client.put(f"/v1/adapters/{name}/aliases/production", json={"version": "v2"})
    finally:
        face.engine.failure = None
    refused(answer, status, type(failure).__name__, None)
    assert ("retry-after" in answer.headers) == (status == 503)
    assert face.client.get(f"/v1/adapters/{name}").json()["aliases"] == {"production": "v1"}


def test_adapters_page_by_page(face: Face) -> None:
    names = [f"page-{letter}" for letter in "abcde"]
    for each in names:
        face.push(each)
    found, after = [], "page-"
    while after is not None:
        page = face.client.get("/v1/adapters", params={"limit": 2, "after": after}).json()
        assert len(page["data"]) <= 2
        found += [adapter["name"] for adapter in page["data"]]
        after = page["after"]
    assert [each for each in found if each.startswith("page-")] == names
    assert found == sorted(found)


def test_versions_page_by_page_newest_first(face: Face, name: str) -> None:
    for _ in range(5):
        face.push(name)
    first = face.client.get(f"/v1/adapters/{name}/versions", params={"limit": 3}).json()
    assert ([version["version"] for version in first["data"]], first["after"]) == (["v5", "v4", "v3"], "v3")
    rest = face.client.get(f"/v1/adapters/{name}/versions", params={"limit": 3, "after": "v3"}).json()
    assert ([version["version"] for version in rest["data"]], rest["after"]) == (["v2", "v1"], None)


@pytest.mark.parametrize(
    ("path", "params", "param", "kind"),
    [
        ("/v1/adapters", {"limit": 0}, "limit", "InvalidInput"),
        ("/v1/adapters", {"limit": 1001}, "limit", "InvalidInput"),
        ("/v1/adapters", {"limit": "many"}, "limit", "InvalidInput"),
        ("/v1/adapters", {"limit": "9" * 5000}, "limit", "InvalidInput"),
        ("/v1/adapters", {"after": "../etc"}, "after", "InvalidName"),
        ("/v1/adapters", {"after": "A\x00"}, "after", "InvalidName"),
        ("/v1/adapters", {"after": ""}, "after", "InvalidName"),
        ("versions", {"after": "production"}, "after", "InvalidInput"),
        ("versions", {"after": "v0"}, "after", "InvalidInput"),
        ("versions", {"limit": -1}, "limit", "InvalidInput"),
    ],
)
def test_cursors_and_limits_are_checked(
    face: Face, name: str, path: str, params: dict[str, Any], param: str, kind: str
) -> None:
    if path == "versions":
        face.push(name)
        path = f"/v1/adapters/{name}/versions"
    refused(face.client.get(path, params=params), 400, kind, param)


def put_alias(face: Face, name: str, **body: Any) -> httpx.Response:
    return face.client.put(f"/v1/adapters/{name}/aliases/production", json=body)


def test_promotion_compares_and_sets(face: Face, name: str) -> None:
    for _ in range(3):
        face.push(name)
    moved = refused(put_alias(face, name, version="v2", if_current="v3"), 409, "AliasMoved", "if_current")
    assert "points to v1" in moved
    refused(put_alias(face, name, version="v2", if_current=None), 409, "AliasMoved", "if_current")
    assert put_alias(face, name, version="v2", if_current="v1").json()["aliases"] == {
        "previous": "v1",
        "production": "v2",
    }
    assert put_alias(face, name, version="v3").json()["aliases"] == {"previous": "v2", "production": "v3"}
    new = face.client.put(f"/v1/adapters/{name}/aliases/new", json={"version": "v1", "if_current": None})
    assert new.json()["aliases"]["new"] == "v1"
    again = face.client.put(f"/v1/adapters/{name}/aliases/new", json={"version": "v1", "if_current": None})
    refused(again, 409, "AliasMoved", "if_current")


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        ({}, 400, "InvalidInput", "version"),
        ({"version": None}, 400, "InvalidInput", "version"),
        ({"version": 1}, 400, "InvalidInput", "version"),
        ({"version": "v1", "if_current": 1}, 400, "InvalidInput", "if_current"),
        ({"version": "v1", "if_current": "production"}, 400, "InvalidInput", "if_current"),
        ({"version": "v1", "if_currrent": "v1"}, 400, "InvalidInput", "if_currrent"),
        ([], 400, "InvalidInput", "body"),
        ({"version": "v9"}, 404, "UnknownVersion", "version"),
        ({"version": "v999999999999"}, 404, "UnknownAlias", "alias"),
        ({"version": "canary"}, 404, "UnknownAlias", "alias"),
        ({"version": "0" * 12}, 404, "UnknownVersion", "version"),
        ({"version": ""}, 404, "UnknownAlias", "alias"),
        ({"version": "\u0000"}, 404, "UnknownAlias", "alias"),
    ],
)
def test_promotion_refuses(face: Face, name: str, body: Any, status: int, kind: str, param: str) -> None:
    face.push(name)
    answer = face.client.put(f"/v1/adapters/{name}/aliases/production", json=body)
    refused(answer, status, kind, param)
    assert face.client.get(f"/v1/adapters/{name}").json()["aliases"] == {"production": "v1"}


@pytest.mark.parametrize(
    "alias", ["v3", "0f3a0f3a0f3a", "Canary", "a..b", "-a", "a" * 64, "%00", "ca nary", "%F0%9F%92%A9"]
)
def test_alias_names_are_checked(face: Face, name: str, alias: str) -> None:
    face.push(name)
    answer = face.client.put(f"/v1/adapters/{name}/aliases/{alias}", json={"version": "v1"})
    refused(answer, 400, "InvalidName", "alias")
    refused(face.push(name, alias=httpx.URL(f"x:{alias}").path), 400, "InvalidName", "alias")


@pytest.mark.parametrize(
    "bad",
    ["", "..", "a..b", "../a", "/etc/passwd", "C:\\x", "Support", "a b", "a\n", "-a", "a" * 64, BASE, *LOOK_ALIKES],
)
def test_names_of_adapters_are_checked(face: Face, bad: str) -> None:
    before = face.client.get("/v1/adapters", params={"limit": 1000}).json()
    assert repr(bad)[1:-1] in refused(face.push(bad), 400, "InvalidName", "name")
    source = {"name": bad, "source": "memory://allowed/a"}
    refused(face.client.post("/v1/adapters", json=source), 400, "InvalidName", "name")
    assert face.client.get("/v1/adapters", params={"limit": 1000}).json() == before


def test_delete_forgets_adapter_versions_and_aliases(face: Face, name: str) -> None:
    face.push(name)
    assert face.client.delete(f"/v1/adapters/{name}").json() == {"object": "deleted", "adapter": name, "version": None}
    for path in ("", "/versions", "/versions/v1", "/versions/production"):
        refused(face.client.get(f"/v1/adapters/{name}{path}"), 404, "UnknownAdapter", "adapter")
    for method, path in (("DELETE", ""), ("DELETE", "/versions/v1"), ("DELETE", "/aliases/production")):
        refused(face.client.request(method, f"/v1/adapters/{name}{path}"), 404, "UnknownAdapter", "adapter")
    for method in ("PUT", "DELETE"):
        answer = face.client.request(method, f"/v1/adapters/{name}/versions/v1/pin")
        refused(answer, 404, "UnknownAdapter", "adapter")
    refused(put_alias(face, name, version="v1"), 404, "UnknownAdapter", "adapter")
    assert name not in face.client.get("/v1/adapters", params={"limit": 1000}).text


def test_numbers_are_not_used_again_after_delete(face: Face, name: str) -> None:
    files = face.files()
    face.push(name, files)
    face.client.delete(f"/v1/adapters/{name}")
    assert face.push(name, files).json()["version"] == "v2"


def test_version_in_use_is_not_deleted(face: Face, name: str) -> None:
    face.push(name)
    face.push(name)
    version = f"/v1/adapters/{name}/versions/v2"
    assert face.client.put(f"{version}/pin").json()["pinned"] is True
    message = refused(face.client.delete(version), 409, "VersionInUse", "version")
    assert "pinned" in message
    assert face.client.delete(f"{version}/pin").json()["pinned"] is False
    refused(face.client.delete(f"/v1/adapters/{name}/versions/v1"), 409, "VersionInUse", "version")
    refused(face.client.delete(f"/v1/adapters/{name}/versions/production"), 404, "UnknownVersion", "version")
    assert face.client.delete(version).json() == {"object": "deleted", "adapter": name, "version": "v2"}
    refused(face.client.get(version), 404, "UnknownVersion", "version")


def test_alias_is_deleted(face: Face, name: str) -> None:
    face.push(name)
    face.push(name, alias="canary")
    assert face.client.delete(f"/v1/adapters/{name}/aliases/canary").json()["aliases"] == {"production": "v1"}
    refused(face.client.delete(f"/v1/adapters/{name}/aliases/canary"), 404, "UnknownAlias", "alias")


@pytest.mark.parametrize(
    ("source", "status", "kind"),
    [
        ("hf://org/repository", 400, "InvalidSource"),
        ("https://example.org/adapter", 400, "InvalidSource"),
        ("file:///etc", 400, "InvalidSource"),
        ("memory://allowed/../secret", 400, "InvalidSource"),
        ("memory://allowedish/a", 400, "InvalidSource"),
        ("/etc/passwd", 400, "InvalidSource"),
        ("", 400, "InvalidSource"),
        ("memory://allowed/\u0000", 400, "InvalidSource"),
        ("a" * 2049, 400, "InvalidInput"),
        ("memory://allowed/nothing-here", 404, "UnknownSource"),
    ],
)
def test_sources_are_allowed_by_the_configuration_only(
    face: Face, name: str, source: str, status: int, kind: str
) -> None:
    refused(face.client.post("/v1/adapters", json={"name": name, "source": source}), status, kind, "source")
    refused(face.client.get(f"/v1/adapters/{name}"), 404, "UnknownAdapter", "adapter")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": "a"}, "source"),
        ({"name": 5, "source": "x"}, "name"),
        ({"name": "a", "source": ["x"]}, "source"),
        ({"name": "a", "source": "x", "alias": 3}, "alias"),
        ({"name": "a", "source": "x", "weights": "x"}, "weights"),
        ("a", "body"),
        (None, "body"),
    ],
)
def test_pushes_from_a_source_are_checked(face: Face, body: Any, param: str) -> None:
    headers = {"content-type": "application/json"}
    refused(face.client.post("/v1/adapters", content=json.dumps(body), headers=headers), 400, "InvalidInput", param)
