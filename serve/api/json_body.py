"""JSON from clients, before a handler sees it: only what every handler can take, and no more than it can take quickly.

Handlers check the meaning. But a number beyond 64 bits, half a Unicode pair, or a million wrong items in a list would
end as a server error there, or hold up every other request for a minute while the complaints are written.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from email.message import Message as Headers
from typing import Any, NoReturn, TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyad.adapters_store.errors import InvalidInput, PolyadError, TooLarge
from polyad.serve.api.errors import error_response

MAX_DEPTH = 100
MAX_ITEMS = 2048
MAX_CONTAINERS = 10_000

# What may be as long as a context or a vocabulary, if it holds token ids and nothing else.
TOKEN_LISTS = frozenset({"prompt", "tokens", "stop_token_ids", "allowed_token_ids"})
TOKEN_MAPS = frozenset({"logit_bias"})

Container: TypeAlias = dict[str, object] | list[object]
Rewrite: TypeAlias = Callable[[str, object], object]
Prepare: TypeAlias = Callable[[str, object], Awaitable[None]]

_INTEGERS = range(-(2**63), 2**64)
_IN_THREAD_BYTES = 64 * 1024


class JsonBody:
    """ASGI middleware: a body that says it is JSON is checked by `read_json`, and refused with 400 if it is not.

    Handlers get it as it came, unless `rewrite` makes another value of it for their path; and not before `prepare` has
    had what the value asks for made ready.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, rewrite: Rewrite, prepare: Prepare) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._rewrite = rewrite
        self._prepare = prepare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _says_json(scope):
            await self._app(scope, receive, send)
            return
        try:
            body = await _read(receive, self._max_bytes)
            if body is None:
                return
            if len(body) > _IN_THREAD_BYTES:
                rewritten, value = await asyncio.to_thread(self._checked, scope["path"], body)
            else:
                rewritten, value = self._checked(scope["path"], body)
            await self._prepare(scope["path"], value)
        except PolyadError as error:
            await error_response(error)(scope, receive, send)
            return
        if rewritten is not body:
            scope = {**scope, "headers": _with_length(scope["headers"], len(rewritten))}
        await self._app(scope, _replayed(rewritten, receive), send)

    def _checked(self, path: str, body: bytes) -> tuple[bytes, object]:
        if not body:
            return body, None
        value = read_json(body)
        wanted = self._rewrite(path, value)
        return (body if wanted is value else json.dumps(wanted).encode()), wanted


def read_json(content: bytes) -> object:
    """The value. Raise InvalidInput, naming the place, unless it is JSON in UTF-8 within the bounds of this module."""
    try:
        value: object = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidInput("body", content[:40], f"UTF-8 text ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise InvalidInput("body", "JSON that is nested deeply", f"at most {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise InvalidInput("body", content[:40], f"valid JSON ({error})") from error
    _check(value)
    return value


def _check(value: object) -> None:
    containers = 0
    rest: list[tuple[str, str, object, int]] = [("", "", value, 0)]
    while rest:
        path, key, value, depth = rest.pop()
        if not isinstance(value, dict | list):
            _check_scalar(path, value)
            continue
        containers += 1
        if containers > MAX_CONTAINERS:
            raise InvalidInput("body", "more objects and arrays", f"at most {MAX_CONTAINERS} in all")
        if depth >= MAX_DEPTH:
            raise InvalidInput(_field(path), "JSON that is nested deeply", f"at most {MAX_DEPTH} levels")
        if len(value) > MAX_ITEMS and _many_tokens(path, key, value):
            continue
        rest.extend((*child, depth + 1) for child in _children(path, key, value))


def _children(path: str, key: str, value: Container) -> Iterator[tuple[str, str, object]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield f"{path}.{index}", key, item
        return
    for name, item in value.items():
        _check_scalar(path, name)
        yield f"{path}.{name}", name, item


def _many_tokens(path: str, key: str, value: Container) -> bool:
    """Whether a long list or object is one of token ids, whose values are then checked; raises if it is not."""
    numbers: list[Any] = list(value.values() if isinstance(value, dict) else value)
    kinds, known = ({int, float}, TOKEN_MAPS) if isinstance(value, dict) else ({int}, TOKEN_LISTS)
    if key not in known or not set(map(type, numbers)) <= kinds:
        allowed = f"at most {MAX_ITEMS}; more only if they are token ids, in {', '.join(sorted(known))}"
        raise InvalidInput(_field(path), f"{len(value)} items", allowed)
    for extreme in (min(numbers), max(numbers)):
        _check_scalar(path, extreme)
    if isinstance(value, list) and min(numbers) < 0:
        raise InvalidInput(_field(path), min(numbers), "token ids, 0 or more")
    return True


def _check_scalar(path: str, value: object) -> None:
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(_field(path), value, f"Unicode text ({error.reason})") from error
    elif isinstance(value, int) and value not in _INTEGERS:
        raise InvalidInput(_field(path), value, "integers of 64 bits")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(_field(path), value, "finite numbers")


def _field(path: str) -> str:
    return path[1:201] or "body"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _says_json(scope: Scope) -> bool:
    headers = Headers()
    # The first, as handlers read it.
    said = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    headers["content-type"] = said.decode("latin-1")
    subtype = headers.get_content_subtype()
    return headers.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))


def _with_length(headers: Iterable[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    return [(name, b"%d" % length if name == b"content-length" else value) for name, value in headers]


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """The whole body; None if the client left before its end. Raises TooLarge."""
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > max_bytes:
            raise TooLarge("body", f"more than {max_bytes}", f"at most {max_bytes} bytes of JSON")
        if not message.get("more_body"):
            return b"".join(pieces)


def _replayed(body: bytes, receive: Receive) -> Receive:
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
