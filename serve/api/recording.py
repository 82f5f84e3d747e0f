"""Interactions as they pass by: requests for text and their answers, streamed or not, in OpenAI's wire format."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyad.adapters_store.feedback import Answer
from polyad.serve.service import LearningService, current_caller

PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})

_MAX_BYTES = 8 * 2**20
_IN_THREAD_BYTES = 64 * 1024
_STREAM_END = b"data: [DONE]"


class Recording:
    """ASGI middleware: what answers an adapter that learns is kept before the client has its last byte.

    Not kept: answers that are no text, requests with `store: false`, and what is larger than 8 MiB.
    """

    def __init__(self, app: ASGIApp, learning: LearningService) -> None:
        self._app = app
        self._learning = learning

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in PATHS or self._learning.idle:
            await self._app(scope, receive, send)
            return
        request, answer = _Body(), _Body()

        async def receiving() -> Message:
            message = await receive()
            request.add(message.get("body", b""))
            return message

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.ok = message["status"] == 200
            elif message["type"] == "http.response.body":
                piece = message.get("body", b"")
                answer.add(piece)
                if not answer.seen and (_STREAM_END in piece or not message.get("more_body", False)):
                    answer.seen = True
                    await self._record(current_caller.get().tenant, request, answer)
            await send(message)

        await self._app(scope, receiving, sending)

    async def _record(self, tenant: str, request: "_Body", answer: "_Body") -> None:
        if not (answer.ok and request.whole and answer.whole):
            return
        try:
            label = next(_events(answer.content))["model"]
            if self._learning.keeps(tenant, label) is None:
                return
            # Off the loop where it is long: other streams must not wait for it.
            read = partial(_read, request.content, answer.content)
            asked, response, answers = await asyncio.to_thread(read) if answer.size > _IN_THREAD_BYTES else read()
            await self._learning.keep(tenant, label, response, asked, answers)
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
            return  # nothing in the format that is kept


def _read(request: bytes, answer: bytes) -> tuple[dict[str, Any], str, list[Answer]]:
    """The request, the response's id, and its answers. Raises for formats that are not kept."""
    events = list(_events(answer))
    return json.loads(request), events[0]["id"], _answers(events)


@dataclass
class _Body:
    ok: bool = False
    seen: bool = False
    size: int = 0
    pieces: list[bytes] = field(default_factory=list)

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.whole:
            self.pieces.append(piece)
        else:
            self.pieces.clear()

    @property
    def whole(self) -> bool:
        return self.size <= _MAX_BYTES

    @property
    def content(self) -> bytes:
        return b"".join(self.pieces)


def _events(content: bytes) -> Iterator[dict[str, Any]]:
    if not content.startswith(b"data:"):
        yield json.loads(content)
        return
    for line in content.split(b"\n"):
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            yield json.loads(data)


def _answers(events: list[dict[str, Any]]) -> list[Answer]:
    """The texts of the choices; nothing if any of them calls tools, was filtered, or was cut off before its text."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            said = choice.get("message") or choice.get("delta") or {"content": choice.get("text")}
            if said.get("tool_calls"):
                return []
            texts[choice["index"]] = texts.get(choice["index"], "") + (said.get("content") or "")
            reasons[choice["index"]] = choice.get("finish_reason") or reasons.get(choice["index"], "")
    if not all(reasons[index] == "stop" or (reasons[index] == "length" and text) for index, text in texts.items()):
        return []
    return [Answer(text=texts[index], ended=reasons[index] == "stop") for index in sorted(texts)]
