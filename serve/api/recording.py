"""Interactions as they pass by: requests for text and their answers, streamed or not, in OpenAI's wire format."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyad.adapters_store.feedback import Answer, Interaction
from polyad.adapters_store.feedback import Message as Turn
from polyad.serve.service import LearningService, current_caller

PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})

_MAX_BYTES = 8 * 2**20
_MAX_TEXT = 256 * 1024
_IN_THREAD_BYTES = 64 * 1024
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "max_completion_tokens", "n")
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
            kept = self._learning.keeps(tenant, next(_events(answer.content))["model"])
            if kept is None:
                return
            adapter, version, policy = kept
            # Off the loop where it is long: other streams must not wait for it.
            read = partial(_read, adapter, request.content, answer.content)
            found = await asyncio.to_thread(read) if answer.size > _IN_THREAD_BYTES else read()
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration):
            return  # nothing in the format that is kept
        if found is None:
            return
        now = time.time()
        times = {"created": now, "expires": now + policy.keep_s}
        place = {"tenant": tenant, "adapter": adapter, "version": version}
        await self._learning.record(Interaction.model_validate({**found, **place, **times}))


def _read(adapter: str, request: bytes, answer: bytes) -> dict[str, Any] | None:
    """What is kept of a request and its answer; None if they are not to be kept. Raises for other formats."""
    asked, events = json.loads(request), list(_events(answer))
    prompt, answers = _prompt(asked), _answers(events)
    if prompt is None or not answers or asked.get("store") is False or not _names(asked["model"], adapter):
        return None
    sampling = {key: asked[key] for key in _SAMPLING if isinstance(asked.get(key), int | float)}
    return {"id": events[0]["id"], "prompt": prompt, "answers": answers, "user": _user(asked), "sampling": sampling}


def _names(model: str, adapter: str) -> bool:
    """Whether it is the adapter's own name: `public/NAME`, or a saved composition, may answer with the same label."""
    return model.rpartition(":")[2].partition("@")[0] == adapter


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


def _prompt(asked: dict[str, Any]) -> tuple[Turn, ...] | str | None:
    if "messages" not in asked:
        prompt = asked["prompt"]
        return prompt if isinstance(prompt, str) and len(prompt) <= _MAX_TEXT else None
    turns = [Turn(role=one["role"], content=_text(one["content"])) for one in asked["messages"]]
    return tuple(turns) if sum(len(turn.content) for turn in turns) <= _MAX_TEXT else None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)


def _answers(events: list[dict[str, Any]]) -> tuple[Answer, ...]:
    """The texts of the choices; nothing if any of them calls tools, was filtered, or has no text."""
    texts: dict[int, str] = {}
    reasons: dict[int, str] = {}
    for event in events:
        for choice in event["choices"]:
            said = choice.get("message") or choice.get("delta") or {"content": choice.get("text")}
            if said.get("tool_calls"):
                return ()
            texts[choice["index"]] = texts.get(choice["index"], "") + (said.get("content") or "")
            reasons[choice["index"]] = choice.get("finish_reason") or reasons.get(choice["index"], "")
    if not all(texts.values()) or sum(map(len, texts.values())) > _MAX_TEXT:
        return ()
    if not set(reasons.values()) <= {"stop", "length"}:
        return ()
    return tuple(Answer(text=texts[index], ended=reasons[index] == "stop") for index in sorted(texts))


def _user(asked: dict[str, Any]) -> str | None:
    user = asked.get("user") or asked.get("safety_identifier")
    return user[:256] if isinstance(user, str) else None
