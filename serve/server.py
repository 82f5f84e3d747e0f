"""The composition root: from settings to a server that serves, and back down again."""

import asyncio
import logging
import socket
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from polyad.adapters_store.admission import Limits
from polyad.adapters_store.base_model import BaseModel
from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.errors import ConfigError, NotFound
from polyad.adapters_store.registry import Change, EmbeddedRedis, Event, Registry, Version, masked
from polyad.adapters_store.source import SourcePolicy
from polyad.serve.api.app import complete_app
from polyad.serve.compose import Resolver
from polyad.serve.config import Settings
from polyad.serve.engine import metrics
from polyad.serve.engine.arguments import model_folder, serve_arguments
from polyad.serve.engine.engine import AdapterEngine
from polyad.serve.engine.openai import attach_engine, build_app
from polyad.serve.engine.residency import Residency
from polyad.serve.engine.supervisor import Supervisor
from polyad.serve.service import AdapterService, Collector, CompositionService, Health, LearningService
from polyad.serve.service.catalog import RegistryCatalog
from polyad.serve.service.learning import open_learning

logger = logging.getLogger(__name__)

TENANT = "public"

Report = Callable[[str], None]


@dataclass
class Server:
    """One server process. `report` hears what is being done; `when_up` runs before the first request is taken."""

    model: str
    options: Sequence[str]
    settings: Settings
    report: Report
    when_up: Callable[[AdapterService, str], Awaitable[None]] | None = None
    app: FastAPI | None = field(default=None, init=False)

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then let running requests end. Raises ConfigError if it cannot start."""
        listener = _listen(self.settings)
        async with (
            self._redis() as url,
            self._registry(url) as registry,
            open_learning(url, self.settings.registry_namespace, registry) as learning,
        ):
            folder = await asyncio.to_thread(model_folder, self.model)
            base = await asyncio.to_thread(BaseModel.from_folder, folder, _served_name(self.model, self.options))
            self.report(f"base model {base.name}: {len(base.linears)} linear modules can be adapted")
            arguments = serve_arguments(str(folder), self.options, self.settings, base)
            await self._serve(listener, registry, learning, base, arguments)

    @asynccontextmanager
    async def _redis(self) -> AsyncIterator[str]:
        settings = self.settings
        if settings.redis_url is not None:
            yield settings.redis_url.get_secret_value()
            return
        self.report(f"starting the embedded Redis in {settings.state_dir / 'redis'}")
        binary = str(settings.redis_server) if settings.redis_server else None
        redis = EmbeddedRedis(settings.state_dir / "redis", binary)
        await redis.start()
        try:
            yield redis.url
        finally:
            await redis.stop()

    @asynccontextmanager
    async def _registry(self, url: str) -> AsyncIterator[Registry]:
        registry = Registry(url, self.settings.registry_namespace)
        try:
            await registry.start()
            self.report(f"registry {masked(url)}: {_count(registry)} adapters")
            yield registry
        finally:
            await registry.close()

    async def _serve(
        self,
        listener: socket.socket,
        registry: Registry,
        learning: LearningService,
        base: BaseModel,
        arguments: Namespace,
    ) -> None:
        settings = self.settings
        blobs = BlobStore(settings.blobs_root, settings.state_dir / "blob-cache", settings.blob_cache_bytes)
        await blobs.start()
        residency = Residency(blobs, settings.host_cache_bytes, settings.load_timeout_s)
        base_names = arguments.served_model_name
        resolver = Resolver(registry.snapshot, TENANT, base_names, base.fingerprint, settings.slots)
        catalog = RegistryCatalog(registry, resolver, TENANT)
        adapters = self._adapters(registry, blobs, residency, base, base_names)
        compositions = CompositionService(registry, resolver, TENANT, base_names)
        collector = Collector(registry, blobs, residency, settings.collect_after_s, TENANT)
        registry.subscribe(lambda event: _revoke(event, registry, residency))
        _watch(registry)

        async def attach(engine: AdapterEngine) -> None:
            if self.app is None:
                # Imports much of vLLM: seconds that the event loop has other uses for.
                self.app = await asyncio.to_thread(build_app, arguments, engine)
                health = Health(registry, supervisor)
                complete_app(self.app, settings, base, supervisor, adapters, compositions, collector, health, learning)
            await attach_engine(self.app, arguments, engine, catalog)

        supervisor = Supervisor(arguments, residency, attach, settings.restart_backoff_s)
        self.report("starting the engine")
        await supervisor.start()
        try:
            url = f"http://{settings.host}:{listener.getsockname()[1]}"
            if self.when_up is not None:
                await self.when_up(adapters, url)
            await self._listen_on(listener, url)
        finally:
            self.report("stopping: running requests may end")
            await supervisor.stop(settings.drain_s)

    def _adapters(
        self, registry: Registry, blobs: BlobStore, residency: Residency, base: BaseModel, reserved: Sequence[str]
    ) -> AdapterService:
        settings = self.settings
        scratch = settings.state_dir / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        return AdapterService(
            registry,
            blobs,
            base,
            Limits(max_rank=settings.max_rank, max_bytes=settings.max_adapter_bytes),
            SourcePolicy(
                allowed_urls=settings.allow_source, hub=settings.allow_hub, max_bytes=settings.max_adapter_bytes
            ),
            scratch,
            residency.warm,
            tenant=TENANT,
            reserved=reserved,
            adapter_root=settings.adapter_root,
            source_timeout_s=settings.source_timeout_s,
        )

    async def _listen_on(self, listener: socket.socket, url: str) -> None:
        if self.app is None:
            raise ConfigError("the engine started without an application")
        config = uvicorn.Config(
            self.app,
            log_level="warning",
            timeout_graceful_shutdown=max(1, round(self.settings.drain_s)),
            timeout_keep_alive=30,
        )
        await _Http(config, lambda: self.report(f"serving on {url}")).serve(sockets=[listener])


class _Http(uvicorn.Server):
    """uvicorn, which says when it really listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()


def _listen(settings: Settings) -> socket.socket:
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    return listener


def _served_name(model: str, options: Sequence[str]) -> str:
    for option, value in zip(options, [*options[1:], ""], strict=True):
        if option in ("--served-model-name", "--served_model_name"):
            return value
        if option.startswith(("--served-model-name=", "--served_model_name=")):
            return option.split("=", 1)[1]
    return Path(model).name if Path(model).is_dir() else model


def _revoke(event: Event, registry: Registry, residency: Residency) -> None:
    if not isinstance(event, Change) or event.removes_versions:
        residency.revoke(lambda version: not _exists(registry, version))


def _exists(registry: Registry, version: Version) -> bool:
    try:
        found = registry.snapshot.resolve(version.tenant, version.adapter, version.label)
    except NotFound:
        return False
    return found.digest == version.digest


def _watch(registry: Registry) -> None:
    metrics.registry_live.set_function(lambda: float(registry.live))
    metrics.adapters.set_function(lambda: float(_count(registry)))


def _count(registry: Registry) -> int:
    return registry.snapshot.count
