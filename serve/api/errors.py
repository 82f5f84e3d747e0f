"""Every error as OpenAI clients expect it: {"error": {"message", "type", "param", "code"}}."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from polyad.adapters_store.errors import InvalidInput, LimitReached, PolyadError, Unauthenticated, Unavailable
from polyad.serve.engine import engine_errors

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5

_MEANINGS = {
    400: "A field is not what is allowed; the message names it, what came and what may come.",
    401: "No valid key.",
    403: "The key's role may not do this.",
    404: "What the request names does not exist.",
    409: "Not in the present state: an alias or a composition has changed, a name is taken, or a version is in use.",
    410: "The response is no longer kept.",
    413: "The body or the adapter is too large.",
    429: "A limit of the tenant is reached; Retry-After says when to ask again.",
    503: "The registry, the blob store or the engine is away; nothing was changed.",
}
_EXAMPLE: dict[str, Any] = {
    "message": "name: got 'Support', allowed: [a-z0-9][a-z0-9._-]{0,62}, without '..'",
    "type": "InvalidName",
    "param": "name",
    "code": 400,
}


class ErrorDetail(BaseModel):
    """`type` is the class of the error, `param` the field at fault, `code` the HTTP status."""

    message: str
    type: str
    param: str | None = None
    code: int


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    model_config = ConfigDict(json_schema_extra={"example": {"error": _EXAMPLE}})

    error: ErrorDetail


def documented_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route says of its errors in the OpenAPI document."""
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}


def error_response(error: PolyadError) -> JSONResponse:
    """The HTTP answer for an error of ours."""
    return _response(error.http_status, type(error).__name__, str(error), error.field, _headers(error))


def _response(
    status: int, kind: str, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    body = ErrorBody(error=ErrorDetail(message=message, type=kind, param=param, code=status))
    return JSONResponse(body.model_dump(), status, headers=headers)


def _headers(error: PolyadError) -> Mapping[str, str]:
    if isinstance(error, Unavailable):
        return {"Retry-After": str(RETRY_AFTER_S)}
    if isinstance(error, LimitReached):
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    return {}


async def _polyad_error(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, PolyadError):
        raise error
    if error.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable):
        logger.error("%s: %s", type(error).__name__, error)
    return error_response(error)


async def _engine_error(_: Request, error: Exception) -> JSONResponse:
    return error_response(engine_errors.translate(error))


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    kind = HTTPStatus(error.status_code).phrase
    return _response(error.status_code, kind, str(error.detail), headers=error.headers)


async def _client_left(_: Request, __: Exception) -> JSONResponse:
    return error_response(InvalidInput("body", "a connection that was closed before its end", "the whole body"))


def add_error_handlers(app: FastAPI) -> None:
    """Answer our own errors, the framework's, and the engine's death, in one shape."""
    app.exception_handler(PolyadError)(_polyad_error)
    app.exception_handler(HTTPException)(_http_error)
    app.exception_handler(ClientDisconnect)(_client_left)
    for kind in engine_errors.TRANSLATED:
        app.exception_handler(kind)(_engine_error)
