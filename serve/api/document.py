"""The OpenAPI document: vLLM's routes and ours, each with an example that works on this server."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from polyad.serve.api.access import OPEN_PATHS
from polyad.serve.api.gate import needs_engine
from polyad.serve.compose.json_schema import COMPOSITION, SCHEMAS, TEXT_OR_FORM, reference_to

_EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "support",
        "messages": [{"role": "user", "content": "Where is my order?"}],
        "max_tokens": 32,
    },
    "/v1/completions": {"model": "support@canary", "prompt": "Where is my", "max_tokens": 32},
    "/v1/responses": {"model": "support@v2", "input": "Where is my order?", "max_output_tokens": 32},
    "/tokenize": {"model": "support", "prompt": "Where is my order?"},
    "/detokenize": {"model": "support", "tokens": [1, 2, 3]},
}
_DESCRIPTION = (
    "One base model and many adapters. `model` takes the base model's name, an adapter (`support`: its production "
    "version), an alias (`support@canary`), a version (`support@v3`), the name of a saved composition, or a blend "
    "(`support*0.7 + tone*0.3`), each also as `base:...`. A composition may also be JSON: in `model`, or in "
    "`composition`, beside a base model's name or nothing. A merge (`ties(support, code; density=0.2)`) is computed "
    "when it is first named; until then the answer is 503 with the id of its job. A fusion (`fuse(support, code)`) "
    "fuses the logits of its experts at every token; `return_fusion`: true in a body adds each choice's `fusion`. "
    "LoRAX's `merged_adapters` in a body is read as the merge that it names."
)
_KEY = {"type": "http", "scheme": "bearer", "description": "Needed if the server has keys."}
# FastAPI announces them for every route; here such errors are 400, in the shape of all others.
_UNUSED = ("HTTPValidationError", "ValidationError")


def complete_document(app: FastAPI) -> None:
    """Make the application's OpenAPI document complete; it is built once, at the first request for it."""
    build = app.openapi

    def openapi() -> dict[str, Any]:
        first = app.openapi_schema is None
        document = build()
        if first:
            document["info"]["description"] = _DESCRIPTION
            document["components"]["securitySchemes"] = {"key": _KEY}
            document["components"]["schemas"].update(SCHEMAS)
            for name in _UNUSED:
                document["components"]["schemas"].pop(name, None)
            for path, operation in _operations(document):
                _complete_operation(path, operation)
                if needs_engine(path):
                    _accept_compositions(document, operation)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _complete_operation(path: str, operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if responses.pop("422", None):
        responses.setdefault("400", _error("The message names the field, what came and what may come."))
    if path not in OPEN_PATHS:
        operation["security"] = [{"key": []}]
        responses.setdefault("401", _error("No valid key."))
    if needs_engine(path):
        responses.setdefault("429", _error("A limit of the tenant is reached; Retry-After says when to ask again."))
        responses.setdefault("503", _error("The engine is starting or restarting; Retry-After says when to ask again."))
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is not None and path in _EXAMPLES:
        content["example"] = _EXAMPLES[path]


def _accept_compositions(document: dict[str, Any], operation: dict[str, Any]) -> None:
    """Say of every body with a `model` that a composition may be in it as JSON, or beside it."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    for schema in _bodies(document, content.get("schema", {})):
        properties = schema.get("properties", {})
        if "model" in properties and "composition" not in properties:
            properties["model"] = {"anyOf": [properties["model"], reference_to(COMPOSITION)]}
            properties["composition"] = {
                **TEXT_OR_FORM,
                "description": "In place of `model`, or of a base model's name.",
            }
            schema["required"] = [name for name in schema.get("required", ()) if name != "model"]


def _bodies(document: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield schema
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from _bodies(document, choice)


def _error(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/ErrorBody"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}
