"""A server to speak to: polyad's own HTTP routes, over a registry that is a dictionary."""

import asyncio
import hashlib
import json
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner, Result
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from polyad.adapters_store.errors import AliasMoved, CompositionChanged, UnknownComposition, VersionInUse
from polyad.adapters_store.names import PRODUCTION
from polyad.adapters_store.pace import Pace
from polyad.adapters_store.registry import UNSET, Adapter, Composition, Snapshot, Unset, Version
from polyad.adapters_store.registry.records import Header
from polyad.adapters_store.source import AdapterFiles
from polyad.serve.cli.main import polyad
from polyad.serve.config import Settings

ADMIN_KEY = "the-admin-key"
TENANT = "public"


class MemoryService:
    """What AdapterService does, without Redis, blobs and admission."""

    def __init__(self) -> None:
        self.headers: dict[str, Header] = {}
        self.versions: list[Version] = []
        self.pushed: list[tuple[bytes, bytes]] = []
        self.initial: bytes | None = None
        self.pace = Pace()
        self.scratch = Path(tempfile.gettempdir())

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot.build("birth", 1, self.headers.values(), self.versions)

    def add(self, name: str, content: bytes = b"", source: str = "upload") -> tuple[Version, bool]:
        digest = hashlib.sha256(content).hexdigest()
        for version in self.versions:
            if (version.adapter, version.digest) == (name, digest):
                return version, False
        number = sum(version.adapter == name for version in self.versions) + 1
        version = Version(
            tenant=TENANT,
            adapter=name,
            number=number,
            created=1767225600.0,
            digest=digest,
            size=len(content),
            base="f" * 64,
            rank=8,
            targets=("q_proj", "v_proj"),
            source=source,
        )
        self.versions.append(version)
        if number == 1:
            fields: dict[str, Any] = {"created": version.created, "revision": 1, "pins": {}}
            self.headers[name] = Header(tenant=TENANT, name=name, aliases={PRODUCTION: 1}, **fields)
        return version, True

    def of(self, tenant: str) -> "MemoryService":
        return self

    async def push(self, name: str, files: AdapterFiles, aliases: Sequence[str] = ()) -> Any:
        from polyad.serve.service import Pushed

        content = files.weights.read_bytes()
        self.pushed.append((files.config, content))
        self.initial = files.initial.read_bytes() if files.initial else None
        version, created = self.add(name, content, files.source)
        for alias in aliases:
            self.headers[name].aliases[alias] = version.number
        return Pushed(version, created)

    async def push_source(self, name: str, source: str, aliases: Sequence[str] = ()) -> Any:
        return await self.push(name, AdapterFiles(b"{}", Path("/dev/null"), source), aliases)

    def adapter(self, name: str) -> Adapter:
        return self.snapshot.adapter(TENANT, name)

    def page(self, after: str | None, limit: int) -> list[Adapter]:
        return self.snapshot.page(TENANT, after, limit)

    def version(self, name: str, reference: str) -> Version:
        return self.snapshot.resolve(TENANT, name, reference)

    async def set_alias(self, name: str, alias: str, reference: str, expected: str | None | Unset = UNSET) -> Adapter:
        version = self.version(name, reference)
        current = self.headers[name].aliases.get(alias)
        label = f"v{current}" if current is not None else None
        if not isinstance(expected, Unset) and expected != label:
            raise AliasMoved("alias", f"{alias!r} is at {label}, not at {expected}")
        self.headers[name].aliases[alias] = version.number
        return self.adapter(name)

    async def delete_alias(self, name: str, alias: str) -> Adapter:
        self.version(name, alias)
        del self.headers[name].aliases[alias]
        return self.adapter(name)

    async def set_pinned(self, name: str, reference: str, pinned: bool) -> Adapter:
        number = self.version(name, reference).number
        self.headers[name].pins.pop(number, None)
        if pinned:
            self.headers[name].pins[number] = True
        return self.adapter(name)

    async def delete_version(self, name: str, reference: str) -> Adapter:
        version = self.version(name, reference)
        if version.number in self.headers[name].aliases.values():
            raise VersionInUse("version", f"{name}@{version.label} is needed by an alias")
        self.versions.remove(version)
        return self.adapter(name)

    async def delete(self, name: str) -> None:
        self.adapter(name)
        del self.headers[name]
        self.versions = [version for version in self.versions if version.adapter != name]


class MemoryCompositions:
    """What CompositionService does, in a dictionary; an expression is whatever its text is."""

    def __init__(self) -> None:
        self.saved: dict[str, Composition] = {}

    def of(self, tenant: str) -> "MemoryCompositions":
        return self

    def read(self, value: str, field: str) -> str:
        return value

    async def save(self, name: str, expression: str, expected: str | None | Unset = UNSET) -> Composition:
        current = self.saved[name].expression if name in self.saved else None
        if not isinstance(expected, Unset) and expected != current:
            raise CompositionChanged("if_current", f"{name!r} is {current}, not {expected}")
        fields: dict[str, Any] = {"tenant": TENANT, "created": 1767225600.0, "revision": 1}
        self.saved[name] = Composition(name=name, expression=expression, **fields)
        return self.saved[name]

    def composition(self, name: str) -> Composition:
        if name not in self.saved:
            raise UnknownComposition("composition", name, "does not exist")
        return self.saved[name]

    def page(self, after: str | None, limit: int) -> list[Composition]:
        return [self.saved[name] for name in sorted(self.saved) if after is None or name > after][:limit]

    async def delete(self, name: str) -> None:
        self.composition(name)
        del self.saved[name]


@dataclass
class Chat:
    """What the model says: each string of `pieces` is sent as it is, after the gate before it has opened."""

    pieces: list[bytes] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    async def stream(self) -> AsyncIterator[bytes]:
        for number, piece in enumerate(self.pieces):
            if number:
                await asyncio.to_thread(self.gate.wait, 30)
            yield piece


@dataclass
class Fake:
    """The server under the commands, and what it was sent."""

    url: str
    service: MemoryService
    compositions: MemoryCompositions
    chat: Chat
    requests: list[tuple[str, str, Any]]
    keys: set[str]


class Recorder:
    """ASGI middleware: notes method, path with query, and the JSON body."""

    def __init__(self, app: ASGIApp, requests: list[tuple[str, str, Any]], keys: set[str]) -> None:
        self._app, self._requests, self._keys = app, requests, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        self._keys.add(headers.get(b"authorization", b"").decode())
        json_sent = headers.get(b"content-type", b"").startswith(b"application/json")
        method, path = scope["method"], scope["path"]
        if scope["query_string"]:
            path += f"?{scope['query_string'].decode()}"
        index, body = len(self._requests), b""
        self._requests.append((method, path, None))

        async def watching() -> Any:
            nonlocal body
            message = await receive()
            body += message.get("body", b"") if json_sent else b""
            # Noted before the request is answered: the test looks as soon as it has the answer.
            if body and not message.get("more_body"):
                self._requests[index] = (method, path, json.loads(body))
            return message

        await self._app(scope, watching, send)


def say(*texts: str, finish: str = "stop") -> list[bytes]:
    """A streamed answer as vLLM writes it."""
    deltas = [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    deltas += [{"delta": {"content": text}, "finish_reason": None} for text in texts]
    deltas[-1]["finish_reason"] = finish
    chunks = [f"data: {json.dumps({'choices': [delta]}, ensure_ascii=False)}\n\n".encode() for delta in deltas]
    return [*chunks, b"data: [DONE]\n\n"]


def add_models(app: FastAPI, service: MemoryService, chat: Chat) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        base = {"id": "the-base", "object": "model", "created": 1767225600, "parent": None}
        rest = [{**base, "id": name, "parent": "the-base"} for name in sorted(service.headers)]
        return {"object": "list", "data": [base, *rest]}

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> Any:
        body = await request.json()
        if body["model"] not in ("the-base", *service.headers):
            error = {"message": f"The model `{body['model']}` does not exist.", "type": "NotFoundError", "code": 404}
            return JSONResponse({"error": error}, 404)
        if body.get("stream"):
            return StreamingResponse(chat.stream(), media_type="text/event-stream")
        return {"choices": [{"message": {"role": "assistant", "content": "whole"}}]}

    @app.post("/v1/collections")
    async def collect(request: Request) -> dict[str, Any]:
        versions = [
            {
                "adapter": "robot",
                "version": "v1",
                "kind": "lora",
                "rank": 8,
                "size": 3,
                "digest": "ab" * 32,
                "aliases": [],
            },
        ]
        return {**await request.json(), "versions": versions, "blobs": ["ab" * 32, "cd" * 32]}

    @app.get("/broken/v1/models")
    async def broken() -> Any:
        return JSONResponse("no", 502)


def make_app(fake: Fake, admin_key: str | None) -> FastAPI:
    with warnings.catch_warnings():
        # The routes import vLLM, which warns of others' deprecations.
        warnings.simplefilter("ignore")
        from polyad.serve.api.access import Authentication
        from polyad.serve.api.adapters import adapters_router
        from polyad.serve.api.compositions import compositions_router
        from polyad.serve.api.errors import add_error_handlers
        from polyad.serve.service import Access
    app = FastAPI()
    add_error_handlers(app)
    service: Any = fake.service
    app.include_router(adapters_router(service))
    compositions: Any = fake.compositions
    app.include_router(compositions_router(compositions))
    add_models(app, fake.service, fake.chat)
    app.add_middleware(Authentication, access=Access(Settings.load(admin_key=admin_key), Snapshot()))
    app.add_middleware(Recorder, requests=fake.requests, keys=fake.keys)
    return app


def serve(admin_key: str | None) -> Iterator[Fake]:
    listener = socket.create_server(("127.0.0.1", 0))
    url, chat = f"http://127.0.0.1:{listener.getsockname()[1]}", Chat(say("Hello", " you"))
    fake = Fake(url, MemoryService(), MemoryCompositions(), chat, [], set())
    fake.chat.gate.set()
    server = uvicorn.Server(uvicorn.Config(make_app(fake, admin_key), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.01)
    yield fake
    server.should_exit = True
    fake.chat.gate.set()
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture
def fake() -> Iterator[Fake]:
    yield from serve(None)


@pytest.fixture
def guarded() -> Iterator[Fake]:
    yield from serve(ADMIN_KEY)


@pytest.fixture
def speak() -> Callable[..., list[bytes]]:
    return say


@pytest.fixture
def run(fake: Fake) -> Callable[..., Result]:
    def invoke(*arguments: str, **options: Any) -> Result:
        return CliRunner(env={"POLYAD_URL": fake.url}).invoke(polyad, arguments, **options)

    return invoke


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files by the names that PEFT gives them; the bytes mean nothing here."""
    target = tmp_path / "adapter"
    target.mkdir()
    (target / "adapter_config.json").write_bytes(b'{"r": 8}\r\n--boundary\r\n')
    (target / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 2000)
    return target
