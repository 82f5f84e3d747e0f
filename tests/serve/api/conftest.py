"""polyad's own routes over a real registry, blobs and admission, reached over TCP; only the engine is missing."""

import asyncio
import itertools
import json
import socket
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from transformers import LlamaConfig

from polyad.adapters_store.admission import Limits
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import PolyadError
from polyad.adapters_store.registry import EmbeddedRedis, Registry, Version
from polyad.adapters_store.source import SourcePolicy
from polyad.serve.compose import Merges, Plan, Resolver
from polyad.serve.config import Settings
from polyad.serve.service import (
    Access,
    AdapterService,
    Collector,
    CompositionService,
    Fleet,
    Health,
    Limiter,
    MergeLimits,
    MergeProcess,
    MergeResults,
    MergeService,
    Services,
    TenantService,
)
from polyad.serve.service.fleet import EXPIRY_S
from polyad.serve.service.learning import LearningService, open_learning
from tests.fixtures.adapters import CONFIG, WEIGHTS, write_adapter

with warnings.catch_warnings():
    # vLLM and torch warn, while they are imported, of what others deprecated.
    warnings.simplefilter("ignore")
    from vllm.entrypoints.serve.exception_handling.register import init_exception_handler

    from polyad.serve.api.app import complete_app
    from polyad.serve.rpc.server import RpcServer

TENANT = "public"
API_KEY = "the-api-key"
ADMIN_KEY = "the-admin-key"
BASE = "tiny"

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Engine:
    """What the routes know of the engine: a switch, and an error that the next loads raise."""

    ready: bool = True
    state: str = "ready"
    failure: PolyadError | None = None
    warmed: list[str] = field(default_factory=list)

    async def warm(self, plan: Plan) -> None:
        if self.failure is not None:
            raise self.failure
        self.warmed.append(plan.label)

    def leased(self, version: Version) -> bool:
        return False


class Face:
    """A server without an engine, in a thread of its own."""

    def __init__(self, state: Path, base: BaseModel, **options: Any) -> None:
        self.base = base
        self.engine = Engine()
        self.root = state / "root"
        self.settings = Settings.load(state_dir=state, grpc_port=0, **options)
        self.redis = EmbeddedRedis(state / "redis")
        # What gRPC generates with: a test's own.
        self.generation: Any = None
        self.rpc_address = ""
        self._seeds = itertools.count(1)
        self._folder = state / "adapters"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> "Face":
        (self.settings.state_dir / "scratch").mkdir()
        self.root.mkdir()
        self._thread.start()
        assert self._up.wait(30), "the routes were not up in 30 s"
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()

    def files(self, **options: Any) -> dict[str, bytes]:
        """The two files of a new adapter, in the fields of an upload."""
        number = next(self._seeds)
        folder = write_adapter(self._folder / str(number), self.base, **{"seed": number, "rank": 4, **options})
        return {"config": (folder / CONFIG).read_bytes(), "weights": (folder / WEIGHTS).read_bytes()}

    def push(self, name: str, files: dict[str, bytes] | None = None, **fields: str) -> httpx.Response:
        return self.client.post("/v1/adapters", data={"name": name, **fields}, files=files or self.files())

    def raw(self, request: bytes, *, more: bool = False) -> Reply:
        """The first answer to these bytes; `more` leaves the request open behind them."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            try:
                connection.sendall(request)
                if not more:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # refused before all was sent: the answer says why
            return _answer(connection)

    async def _serve(self) -> None:
        await self.redis.start()
        registry = Registry(self.redis.url)
        await registry.start()
        try:
            blobs = BlobStore(self.settings.blobs_root, self.settings.state_dir / "cache", 0)
            await blobs.start()
            namespace = self.settings.registry_namespace
            async with open_learning(self.redis.url, namespace, registry) as learning:
                await self._listen(registry, blobs, learning)
        finally:
            await registry.close()
            await self.redis.stop()

    async def _listen(self, registry: Registry, blobs: BlobStore, learning: LearningService) -> None:
        settings, engine = self.settings, self.engine
        limits = Limits(max_rank=settings.max_rank, max_bytes=settings.max_adapter_bytes)
        policy = SourcePolicy(allowed_urls=("memory://allowed/",), hub=False, max_bytes=settings.max_adapter_bytes)
        service = AdapterService(
            registry,
            blobs,
            self.base,
            limits,
            policy,
            settings.state_dir / "scratch",
            engine.warm,
            tenant=TENANT,
            reserved=[BASE],
            adapter_root=settings.adapter_root,
            forget=learning.forget_adapter,
        )
        known = Merges(settings.max_rank)
        resolver = Resolver(registry.snapshot, TENANT, [BASE], self.base.fingerprint, merges=known)
        compositions = CompositionService(registry, resolver, TENANT, [BASE])
        scratch = settings.state_dir / "scratch"
        worker = MergeProcess(None, 1, settings.max_rank)
        results = MergeResults(registry, blobs, known, worker, engine, scratch, settings.merge_cache_bytes)
        waits = MergeLimits(wait_s=settings.merge_wait_s, retry_s=settings.merge_retry_s)
        merges = MergeService(registry, resolver, results, waits, service, TENANT, [BASE])
        collector = Collector(registry, blobs, engine, settings.collect_after_s, TENANT, learning.needed_digests)
        app = _engine_routes()
        supervisor: Any = engine
        health = Health(registry, engine)
        access = Access(settings, registry.snapshot)
        tenants = TenantService(registry, locked=settings.admin_key is not None)
        status = lambda: health.readiness().status  # noqa: E731
        fleet = Fleet(registry, registry.replicas(EXPIRY_S), self.base.fingerprint, lambda: (), status)
        limiter = Limiter(registry)
        services = Services(service, compositions, merges, collector, health, access, tenants, limiter, fleet, learning)
        complete_app(app, settings, self.base, supervisor, services)
        rpc = RpcServer(settings, services, resolver, lambda: self.generation)
        self.rpc_address = await rpc.start()
        self._server = _Server(uvicorn.Config(app, log_level="warning"), self._up)
        fleet.start()
        try:
            await self._server.serve([self._listener])
        finally:
            await fleet.stop()
            await rpc.stop(0)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, up: threading.Event) -> None:
        super().__init__(config)
        self._up = up

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()


def _engine_routes() -> FastAPI:
    """Stands in for vLLM's application: its error handlers, and routes that say what reached them."""
    app = FastAPI()
    app.state.args = Namespace(log_error_stack=False)
    init_exception_handler(app)

    @app.post("/v1/completions")
    async def completions(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @app.post("/v1/chat/completions", include_in_schema=False)
    async def chat(body: dict[str, Any]) -> Response:
        return said(body)

    @app.post("/tokenize")
    async def tokenize(request: Request) -> int:
        return len(await request.body())

    return app


def said(body: dict[str, Any]) -> Response:
    """What vLLM answers with the texts in `say`: as a whole, or a letter at a time and then the reason of each."""
    label = body["model"].replace("@canary", "@v2")
    head = {"id": body["id"], "model": label if "@" in label else f"{label}@v1"}
    reason = body.get("reason", "stop")
    if not body.get("stream"):
        choices = [
            {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
            for index, text in enumerate(body["say"])
        ]
        return JSONResponse({**head, "choices": choices})
    deltas = [(i, {"content": letter}, None) for i, text in enumerate(body["say"]) for letter in text]
    deltas += [(i, {}, reason) for i in range(len(body["say"]))]
    events = [{**head, "choices": [{"index": i, "delta": delta, "finish_reason": end}]} for i, delta, end in deltas]
    lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
    return StreamingResponse(iter(lines), media_type="text/event-stream")


def _answer(connection: socket.socket) -> Reply:
    received = b""
    while True:
        head, end, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines) if end else {}
        if end and len(body) >= int(headers.get("content-length", "0")):
            return int(status.split()[1]), headers, body
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            piece = b""
        if not piece:
            return 0, headers, body
        received += piece


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    folder = tmp_path_factory.mktemp("tiny")
    LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        architectures=["LlamaForCausalLM"],
    ).save_pretrained(folder)
    return BaseModel.from_folder(folder, BASE)


@pytest.fixture(scope="session")
def new_face(tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Face]:
    def make(**options: Any) -> Face:
        state = tmp_path_factory.mktemp("face")
        return Face(state, tiny_base, **{"max_rank": 8, "max_adapter_bytes": 200_000, "collect_after_s": 0, **options})

    return make


@pytest.fixture(scope="session")
def face(new_face: Callable[..., Face], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    """Without keys: everybody is admin."""
    with new_face() as running:
        yield running


@pytest.fixture(scope="session")
def guarded(new_face: Callable[..., Face]) -> Iterator[Face]:
    """With an API key and an admin key."""
    with new_face(api_key=API_KEY, admin_key=ADMIN_KEY) as running:
        yield running


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name for an adapter that no other test uses."""
    _count[0] += 1
    return f"adapter-{_count[0]}"


_count = [0]


def refused(answer: httpx.Response, status: int, kind: str, param: str | None) -> str:
    """Check that an answer is an error in OpenAI's shape; the message."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == (kind, param, status), error
    message: str = error["message"]
    return message
