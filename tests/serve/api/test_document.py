"""The OpenAPI document of our own routes: valid, and complete."""

import copy
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.serve.api.conftest import Face

Operation = tuple[str, str, dict[str, Any]]
PROBES = {"/health", "/ready", "/version"}
# Stand-ins of the tests for routes of vLLM.
ENGINE = {"/v1/completions", "/tokenize"}


@pytest.fixture(scope="session")
def document(face: Face) -> dict[str, Any]:
    found: dict[str, Any] = face.client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    for path, methods in document["paths"].items():
        if path not in ENGINE:
            for method, operation in methods.items():
                yield method, path, operation


def schema_of(document: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = next(iter(content.values()))["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def test_document_is_valid(document: dict[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(copy.deepcopy(document)).iter_errors()) == []


def test_document_is_the_same_each_time(face: Face, document: dict[str, Any]) -> None:
    assert face.client.get("/openapi.json").json() == document


def test_every_operation_says_what_it_does_and_how_it_fails(document: dict[str, Any]) -> None:
    assert len(list(operations(document))) == 17
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["tags"], where
        assert "422" not in operation["responses"], where
        if path not in PROBES:
            assert operation["security"] == [{"key": []}], where
            assert {"400", "401", "403", "413", "503"} <= set(operation["responses"]), where
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and path not in PROBES:
                assert schema_of(document, answer["content"])["title"] == "ErrorBody", where


def test_every_body_has_an_example(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        where = f"{method} {path}"
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            schema = schema_of(document, {kind: content})
            examples = schema.get("example") or {key: part.get("example") for key, part in schema["properties"].items()}
            assert examples, where
        for answer in operation["responses"].values():
            if "application/json" in answer.get("content", {}):
                assert schema_of(document, answer["content"]).get("example"), where


def test_examples_of_bodies_are_taken(face: Face, document: dict[str, Any]) -> None:
    """An example may name what is not there; it is never malformed."""
    face.push("support")
    named = {"{name}": "support", "{version}": "v1", "{alias}": "canary"}
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        for placeholder, value in named.items():
            path = path.replace(placeholder, value)
        example = schema_of(document, {"application/json": content})["example"]
        answer: httpx.Response = face.client.request(method, path, json=example)
        refusal = answer.json().get("error", {}) if answer.status_code >= 400 else {}
        # Neither the Hub nor a folder of the server's own is configured here.
        assert refusal.get("param") in (None, "source", "lora_path", "lora_name", "version", "adapter"), answer.text


def test_examples_of_answers_fit_their_schemas(document: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    for name, schema in document["components"]["schemas"].items():
        if "example" in schema:
            whole = {**schema, "components": document["components"]}
            assert list(Draft202012Validator(whole).iter_errors(schema["example"])) == [], name
