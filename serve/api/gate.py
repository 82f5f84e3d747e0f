"""Requests that cannot be served are answered before they reach a handler: body too large, engine away."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyad.adapters_store.errors import EngineUnavailable, LimitReached, TooLarge
from polyad.serve.api.errors import error_response
from polyad.serve.service import Caller, Limiter

# What is answered without an engine.
_ENGINELESS = (
    "/v1/adapters",
    "/v1/compositions",
    "/v1/merges",
    "/v1/collections",
    "/v1/public",
    "/v1/keys",
    "/v1/tenants",
    "/v1/replicas",
    "/v1/feedback",
    "/v1/runs",
    "/health",
    "/ready",
    "/version",
    "/metrics",
    "/docs",
    "/openapi.json",
)

_LINGER_S = 3.0


def needs_engine(path: str) -> bool:
    """Whether requests for the path are refused while the engine is away."""
    return not path.startswith(_ENGINELESS)


class EngineGate:
    """ASGI middleware: while the engine is away, inference is answered with 503 at once."""

    def __init__(self, app: ASGIApp, ready: Callable[[], bool]) -> None:
        self._app = app
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._ready() and needs_engine(scope["path"]):
            error = EngineUnavailable("the engine is starting or restarting")
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class TenantLimit:
    """ASGI middleware: inference beyond what the caller's tenant may use is answered with 429 at once."""

    def __init__(self, app: ASGIApp, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get("polyad.caller")
        if caller is None or scope.get("method") != "POST" or not needs_engine(scope["path"]):
            await self._app(scope, receive, send)
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(self._limiter.running(caller.tenant))
            except LimitReached as error:
                await error_response(error)(scope, receive, send)
                return
            await self._app(scope, receive, send)


class BodyLimit:
    """ASGI middleware: bodies over the limit of their path are refused with 413, whatever their headers claim."""

    def __init__(self, app: ASGIApp, limit: Callable[[str], int]) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope["path"])
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > limit:
            await _discard(receive)
            await _refuse(int(length[:20]), limit, scope, receive, send)
            return
        body = _Counted(receive, limit)
        answered = False

        async def watching(message: Message) -> None:
            nonlocal answered
            # What a handler makes of a body that was cut off is not the answer.
            if answered or not body.exceeded:
                answered = True
                await send(message)

        with suppress(_Exceeded):
            await self._app(scope, body, watching)
        if body.exceeded and not answered:
            if not body.ended:
                await _discard(receive)
            await _refuse(f"more than {limit}", limit, scope, receive, send)


class _Exceeded(Exception):
    pass


class _Counted:
    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit
        self.ended = False

    @property
    def exceeded(self) -> bool:
        return self._left < 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = not message.get("more_body", False)
        self._left -= len(message.get("body", b""))
        if self.exceeded:
            raise _Exceeded
        return message


async def _refuse(size: object, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response(TooLarge("body", size, f"at most {limit} bytes"))
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


async def _discard(receive: Receive) -> None:
    """Let the client send its body, for a while: most read no answer before, and a closed connection says nothing."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            more = True
            while more:
                message = await receive()
                more = message["type"] == "http.request" and message.get("more_body", False)
