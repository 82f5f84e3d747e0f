"""The OpenAPI document of our own routes: valid, and complete."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.serve.api.conftest import Face

Operation = tuple[str, str, dict[str, Any]]
PROBES = {"/health", "/ready", "/version"}
# Stand-ins of the tests for routes of vLLM.
ENGINE = {"/v1/completions", "/v1/chat/completions", "/tokenize"}


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
    assert len(list(operations(document))) == 57
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
    for adapter in ("support", "tone"):
        face.push(adapter)
    named = {
        "adapters/{name}": "adapters/support",
        "{name}": "helpful",
        "{version}": "v1",
        "{alias}": "canary",
        "{tenant}": "acme",
    }
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            continue
        for placeholder, value in named.items():
            path = path.replace(placeholder, value)
        example = schema_of(document, {"application/json": content})["example"]
        answer: httpx.Response = face.client.request(method, path, json=example)
        refusal = answer.json().get("error", {}) if answer.status_code >= 400 else {}
        # Neither the Hub nor a folder of the server's own is configured here, and nothing was saved before.
        # The first key of all must be an admin's.
        absent = ("source", "lora_path", "lora_name", "version", "adapter", "if_current", "role", "response")
        assert refusal.get("param") in (None, *absent), answer.text


def test_examples_of_answers_fit_their_schemas(document: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    for name, schema in document["components"]["schemas"].items():
        if "example" in schema:
            whole = {**schema, "components": document["components"]}
            assert list(Draft202012Validator(whole).iter_errors(schema["example"])) == [], name


@pytest.fixture(scope="module")
def engine_document() -> dict[str, Any]:
    """A document over bodies of vLLM's: one with `model` optional, one with it required, and a choice of two."""
    with warnings.catch_warnings():
        # vLLM and torch warn of others' deprecations, pydantic of vLLM's defaults.
        warnings.simplefilter("ignore")
        from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.serve.tokenize.protocol import TokenizeRequest

        from polyad.serve.api.compositions import SetComposition
        from polyad.serve.api.document import complete_document
        from polyad.serve.api.errors import documented_errors

        app = FastAPI(title="t", version="1")
        bodies = {"/v1/chat/completions": ChatCompletionRequest, "/v1/messages": AnthropicMessagesRequest}
        bodies |= {"/tokenize": TokenizeRequest, "/v1/compositions": SetComposition}
        for path, body in bodies.items():
            app.add_api_route(path, _taking(body), methods=["POST"], responses=documented_errors(400))
        complete_document(app)
        return app.openapi()


def _taking(body: Any) -> Any:
    async def route(request: body) -> None: ...

    return route


def test_every_body_with_a_model_takes_a_composition_as_json(engine_document: dict[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(copy.deepcopy(engine_document)).iter_errors()) == []
    schemas = engine_document["components"]["schemas"]
    requests = ["ChatCompletionRequest", "AnthropicMessagesRequest", "TokenizeChatRequest", "TokenizeCompletionRequest"]
    for name in requests:
        properties = schemas[name]["properties"]
        assert {"$ref": "#/components/schemas/Composition"} in properties["model"]["anyOf"], name
        assert {"$ref": "#/components/schemas/Composition"} in properties["composition"]["anyOf"], name
        assert "model" not in schemas[name].get("required", ()), name
    assert "messages" in schemas["AnthropicMessagesRequest"]["required"]
    assert "model" not in schemas["SetComposition"]["properties"]
