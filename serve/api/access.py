"""Who may do what over HTTP: keys come as `Authorization: Bearer KEY`."""

from typing import Annotated

from fastapi import Depends, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from polyad.adapters_store.errors import Forbidden, Unauthenticated
from polyad.adapters_store.names import PUBLIC
from polyad.serve.api.errors import error_response
from polyad.serve.service import Access, Caller, current_caller

OPEN_PATHS = frozenset({"/health", "/ready", "/version"})
# What it shows is of all tenants.
_METRICS = "/metrics"


class Authentication:
    """ASGI middleware: every path but OPEN_PATHS needs a caller, whom it puts into the scope and the context."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _is_open(scope):
            await self._app(scope, receive, send)
            return
        try:
            known = self._access.reader_of_metrics if scope["path"].startswith(_METRICS) else self._access.caller
            caller = known(dict(scope["headers"]).get(b"authorization", b""))
        except (Forbidden, Unauthenticated) as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await error_response(error)(scope, receive, send)
            return
        scope["polyad.caller"] = caller
        token = current_caller.set(caller)
        try:
            await self._app(scope, receive, send)
        finally:
            current_caller.reset(token)


def _is_open(scope: Scope) -> bool:
    if scope["type"] == "http":
        # A browser asks by OPTIONS, and without a key, whether it may send one.
        return bool(scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS")
    return bool(scope["type"] != "websocket")


def caller_of(request: Request) -> Caller:
    """Whom the request is for."""
    caller: Caller = request.scope["polyad.caller"]
    return caller


Asking = Annotated[Caller, Depends(caller_of)]


def _require_publisher(caller: Asking) -> None:
    caller.check_writes(caller.tenant)


def _require_operator(caller: Asking) -> None:
    caller.check_writes(PUBLIC)


def _require_admin(caller: Asking) -> None:
    caller.check_admin()


Publisher = Depends(_require_publisher)
Operator = Depends(_require_operator)
Admin = Depends(_require_admin)
