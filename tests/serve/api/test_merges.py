"""/v1/merges, and merges named in requests, over a real registry and real workers."""

import time
from typing import Any

import httpx
import pytest

from tests.serve.api.conftest import BASE, Face, refused

TIES = "ties(m-a, m-b*0.5; density=0.4)"
# Merges are computed at the lowest priority: where others keep the cores busy, they wait.
PATIENCE_S = 180


@pytest.fixture(autouse=True)
def adapters(face: Face) -> None:
    for name in ("m-a", "m-b"):
        if face.client.get(f"/v1/adapters/{name}").status_code == httpx.codes.NOT_FOUND:
            face.push(name).raise_for_status()


def finished(face: Face, job: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found: dict[str, Any] = face.client.get(f"/v1/merges/{job}").json()
        if found["status"] in ("done", "failed"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{job} did not end in {PATIENCE_S} s")


def test_a_job_has_a_status_and_a_report(face: Face) -> None:
    answer = face.client.post("/v1/merges", json={"expression": TIES})
    assert answer.status_code == 202, answer.text
    job = finished(face, answer.json()["id"])
    assert job["status"] == "done", job
    assert job["done"] == job["of"] > 0
    assert job["expression"] == "ties(m-a@v1, m-b@v1*0.5; density=0.4)"
    assert job["report"]["method"] == "ties" and 0 <= job["relative_error"] < 1
    assert job["id"] in [one["id"] for one in face.client.get("/v1/merges").json()["data"]]


def test_a_request_waits_for_its_merge(face: Face) -> None:
    model = "dare_linear(m-a, m-b; seed=5)"
    answer = face.client.post("/v1/completions", json={"model": model, "prompt": "x"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    assert model.replace("m-a", "m-a@v1").replace("m-b", "m-b@v1") in [
        one["expression"] for one in face.client.get("/v1/merges").json()["data"]
    ]


def test_a_request_that_has_waited_is_told_when_to_come_again(new_face: Any) -> None:
    with new_face(merge_wait_s=0) as face:
        for name in ("m-a", "m-b"):
            face.push(name).raise_for_status()
        answer = face.client.post("/v1/completions", json={"model": TIES, "prompt": "x"})
        message = refused(answer, 503, "MergePending", None)
        assert answer.headers["retry-after"].isdigit()
        job = message.partition("/v1/merges/")[2].split(",")[0]
        assert finished(face, job)["status"] == "done"
        assert face.client.post("/v1/completions", json={"model": TIES, "prompt": "x"}).status_code == 200


def test_a_merge_becomes_a_version(face: Face, name: str) -> None:
    body = {"expression": {"merge": "slerp", "of": [{"adapter": "m-a"}, {"adapter": "m-b"}]}, "save": {"name": name}}
    job = face.client.post("/v1/merges", json=body).json()["id"]
    assert finished(face, job)["status"] == "done"
    end = time.monotonic() + PATIENCE_S
    while face.client.get(f"/v1/adapters/{name}").status_code == httpx.codes.NOT_FOUND and time.monotonic() < end:
        time.sleep(0.05)
    version = face.client.get(f"/v1/adapters/{name}/versions/v1").json()
    assert version["kind"] == "merge"
    assert version["recipe"]["method"] == "slerp"
    assert face.client.get(f"/v1/merges/{job}").json()["version"] == f"{name}@v1"


LORAX = {"ids": ["m-a", "m-b@v1"], "weights": [0.7, 0.3]}


@pytest.mark.parametrize(
    ("merged", "model"),
    [
        (LORAX, "m-a*0.7 + m-b@v1*0.3"),
        ({"ids": ["m-a", "m-b"]}, "m-a + m-b"),
        (LORAX | {"merge_strategy": "linear"}, "m-a*0.7 + m-b@v1*0.3"),
        (
            LORAX | {"merge_strategy": "ties", "density": 0.4},
            "ties(m-a*0.7, m-b@v1*0.3; density=0.4, sign=total, variant=peft)",
        ),
        (
            LORAX | {"merge_strategy": "dare_ties", "density": 0.4, "majority_sign_method": "frequency"},
            "dare_ties(m-a*0.7, m-b@v1*0.3; density=0.4, sign=frequency, variant=peft)",
        ),
        (
            LORAX | {"merge_strategy": "dare_linear", "density": 0.4},
            "dare_linear(m-a*0.7, m-b@v1*0.3; density=0.4, variant=peft)",
        ),
    ],
)
def test_lorax_bodies_are_compositions(face: Face, merged: dict[str, Any], model: str) -> None:
    for given in ({}, {"model": BASE}):
        body = {"prompt": "x", "merged_adapters": merged, **given}
        answer = face.client.post("/v1/completions", json=body)
        assert answer.json() == {"prompt": "x", "model": model}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"merged_adapters": []}, "merged_adapters"),
        ({"merged_adapters": {"ids": []}}, "merged_adapters.ids"),
        ({"merged_adapters": {"ids": [1]}}, "merged_adapters.ids.0"),
        ({"merged_adapters": {"ids": ["a"], "weights": [1, 2]}}, "merged_adapters.weights"),
        ({"merged_adapters": {"ids": ["a"], "weights": ["1"]}}, "merged_adapters.blend.0.weight"),
        ({"merged_adapters": {"ids": ["A"]}}, "merged_adapters.blend.0.adapter"),
        ({"merged_adapters": {"ids": ["a"], "merge_strategy": "magic"}}, "merged_adapters.merge_strategy"),
        ({"merged_adapters": {"ids": ["a"], "densty": 1}}, "merged_adapters"),
        ({"merged_adapters": LORAX, "model": "m-a"}, "model"),
        ({"merged_adapters": LORAX, "composition": "m-a"}, "merged_adapters"),
    ],
)
def test_other_lorax_bodies_are_refused(face: Face, body: dict[str, Any], param: str) -> None:
    answer = face.client.post("/v1/completions", json={"prompt": "x", **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("body", "status", "kind", "param"),
    [
        ({}, 400, "InvalidInput", "expression"),
        ({"expression": "tise(m-a)"}, 400, "Unsupported", "expression"),
        ({"expression": "ties(m-a; density=2)"}, 400, "InvalidInput", "expression"),
        ({"expression": "fuse(m-a, m-b)"}, 400, "Unsupported", "expression"),
        ({"expression": "ties(m-a, nobody)"}, 404, "UnknownModel", "expression"),
        ({"expression": TIES, "save": {"name": "No"}}, 400, "InvalidName", "save.name"),
        ({"expression": TIES, "save": {"name": BASE}}, 400, "InvalidName", "save.name"),
        ({"expression": TIES, "save": {"name": "x", "alias": "v1"}}, 400, "InvalidName", "save.alias"),
        ({"expression": TIES, "saved": 1}, 400, "InvalidInput", "saved"),
    ],
)
def test_what_cannot_be_merged_is_refused(face: Face, body: Any, status: int, kind: str, param: str) -> None:
    refused(face.client.post("/v1/merges", json=body), status, kind, param)


def test_an_unknown_merge_is_a_404(face: Face) -> None:
    refused(face.client.get(f"/v1/merges/{'0' * 64}"), 404, "UnknownMerge", "merge")


def test_a_merge_needs_the_admin_key(guarded: Face) -> None:
    assert guarded.client.post("/v1/merges", json={"expression": TIES}).status_code == 401
    assert guarded.client.get("/v1/merges").status_code == 401
