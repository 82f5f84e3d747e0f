"""Who may do what: no key, an API key, an admin key."""

import hmac
from enum import IntEnum
from typing import Annotated

from fastapi import Depends, Request
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from polyad.adapters_store.errors import Forbidden, Unauthenticated
from polyad.serve.api.errors import error_response

OPEN_PATHS = frozenset({"/health", "/ready", "/version"})


class Role(IntEnum):
    """What a key may do; each role includes those below it."""

    USER = 1
    ADMIN = 2


class Keys:
    """The configured keys. Without any, everybody who can reach the server is its admin."""

    def __init__(self, api_key: SecretStr | None, admin_key: SecretStr | None) -> None:
        self._api_key = api_key
        self._admin_key = admin_key

    def role(self, authorization: bytes) -> Role:
        """The role of an Authorization header, empty if there was none. Raises Unauthenticated."""
        if self._api_key is None and self._admin_key is None:
            return Role.ADMIN
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            if _same(token, self._admin_key):
                return Role.ADMIN
            if _same(token, self._api_key):
                return Role.USER
        if self._api_key is None:
            return Role.USER
        raise Unauthenticated("authorization: a valid key is needed, as `Authorization: Bearer KEY`")


def _same(token: bytes, key: SecretStr | None) -> bool:
    return key is not None and hmac.compare_digest(token, key.get_secret_value().encode())


class Authentication:
    """ASGI middleware: every path but OPEN_PATHS needs a key, if keys are configured; the role goes into the scope."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _is_open(scope):
            try:
                scope["polyad.role"] = self._keys.role(dict(scope["headers"]).get(b"authorization", b""))
            except Unauthenticated as error:
                if scope["type"] == "websocket":
                    await send({"type": "websocket.close", "code": 1008})
                else:
                    await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _is_open(scope: Scope) -> bool:
    if scope["type"] == "http":
        # A browser asks by OPTIONS, and without a key, whether it may send one.
        return bool(scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS")
    return bool(scope["type"] != "websocket")


def _require_admin(request: Request) -> None:
    if request.scope.get("polyad.role", Role.USER) < Role.ADMIN:
        raise Forbidden("authorization: changes need the admin key")


Admin = Depends(_require_admin)
AdminRole = Annotated[None, Admin]
