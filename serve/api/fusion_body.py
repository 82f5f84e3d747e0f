"""What requests ask and answers tell of fusions: `return_fusion` in, `fusion` in choices and in usage out."""

import json
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from polyad.adapters_store.errors import InvalidInput
from polyad.serve.engine.fusion_report import FusionReport, current_report

_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})
_FIELD = "return_fusion"
_EVENT, _END = b"data: ", b"\n\n"


def without_fusion_fields(path: str, body: object) -> object:
    """The body as vLLM's handlers know it. Raises InvalidInput for `return_fusion` that is no truth, or not there."""
    report = current_report.get()
    if not isinstance(body, dict):
        return body
    wanted = body.get(_FIELD, False)
    if not isinstance(wanted, bool):
        raise InvalidInput(_FIELD, wanted, "true or false")
    if report is None:
        if wanted:
            raise InvalidInput(_FIELD, wanted, f"only in {' and '.join(sorted(_PATHS))}")
    else:
        report.wanted, report.beams = wanted, body.get("use_beam_search") is True
    return {key: value for key, value in body.items() if key != _FIELD} if _FIELD in body else body


class FusionAnswers:
    """ASGI middleware: answers that were fused say so, as JSON or in each event of a stream; others pass unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in _PATHS:
            await self._app(scope, receive, send)
            return
        report = FusionReport()
        token = current_report.set(report)
        try:
            await self._app(scope, receive, _Answer(report, send))
        finally:
            current_report.reset(token)


class _Answer:
    """Looks at one answer on its way out."""

    def __init__(self, report: FusionReport, send: Send) -> None:
        self._report = report
        self._send = send
        self._start: Message | None = None
        self._rest = b""
        self._told: Callable[[Message], Any] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body" and self._told is not None:
            await self._told(message)
        else:
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        kind = dict(message["headers"]).get(b"content-type", b"")
        if message["status"] == 200 and kind.startswith(b"text/event-stream"):
            self._told = self._stream
        elif message["status"] == 200 and self._report.sequences and kind.startswith(b"application/json"):
            self._start, self._told = message, self._whole
            return
        await self._send(message)

    async def _whole(self, message: Message) -> None:
        self._rest += message.get("body", b"")
        if message.get("more_body") or self._start is None:
            return
        body = self._completed(self._rest)
        headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(self, message: Message) -> None:
        if not self._report.sequences and not self._rest:
            await self._send(message)
            return
        *events, self._rest = (self._rest + message.get("body", b"")).split(_END)
        body = b"".join(self._event(event) + _END for event in events)
        if not message.get("more_body"):
            body += self._rest
        if body or not message.get("more_body"):
            await self._send({**message, "body": body})

    def _event(self, event: bytes) -> bytes:
        return _EVENT + self._completed(event.removeprefix(_EVENT)) if event.startswith(_EVENT + b"{") else event

    def _completed(self, content: bytes) -> bytes:
        answer = json.loads(content)
        for choice in answer.get("choices", ()):
            tokens = self._report.take(choice["index"])
            if not self._report.wanted:
                continue
            choice["fusion"] = {"tokens": tokens}
            if choice.get("finish_reason") is not None:
                choice["fusion"]["summary"] = self._report.summary(choice["index"])
        if isinstance(answer.get("usage"), dict):
            answer["usage"]["fusion"] = {"sequences": self._report.sequences}
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()
