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
from polyad.adapters_store.base_model import BaseModel, model_folder
from polyad.adapters_store.blobs import BlobStore
from polyad.adapters_store.ending import end
from polyad.adapters_store.errors import BlobsUnavailable, ConfigError, Conflict, NotFound
from polyad.adapters_store.names import PUBLIC
from polyad.adapters_store.pace import Pace
from polyad.adapters_store.registry import Change, EmbeddedRedis, Event, MergedVersion, Registry, Version, masked
from polyad.adapters_store.source import SourcePolicy
from polyad.serve.api.app import complete_app
from polyad.serve.compose import Merges, Resolver
from polyad.serve.config import Settings
from polyad.serve.engine import metrics
from polyad.serve.engine.arguments import serve_arguments
from polyad.serve.engine.engine import AdapterEngine
from polyad.serve.engine.generation import Generation
from polyad.serve.engine.openai import attach_engine, build_app
from polyad.serve.engine.residency import Residency
from polyad.serve.engine.supervisor import Supervisor
from polyad.serve.engine.telemetry import Telemetry
from polyad.serve.rpc.server import RpcServer
from polyad.serve.service import (
    Access,
    AdapterService,
    Collector,
    CompositionService,
    Fleet,
    Health,
    LearningService,
    Limiter,
    MergeLimits,
    MergeProcess,
    MergeResults,
    MergeService,
    Services,
    TenantService,
    Warming,
    check_sole_owner,
)
from polyad.serve.service.catalog import RegistryCatalog
from polyad.serve.service.fleet import EXPIRY_S
from polyad.serve.service.learning import open_learning
from polyad.serve.service.scratch_folder import swept_scratch

logger = logging.getLogger(__name__)

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
            swept_scratch(self._scratch),
            self._redis() as url,
            self._registry(url) as registry,
            open_learning(url, self.settings.registry_namespace, registry) as learning,
        ):
            folder = await asyncio.to_thread(model_folder, self.model)
            base = await asyncio.to_thread(BaseModel.from_folder, folder, _served_name(self.model, self.options))
            self.report(f"base model {base.name}: {len(base.linears)} linear modules can be adapted")
            arguments = serve_arguments(str(folder), self.options, self.settings, base)
            await self._serve(listener, registry, learning, base, arguments)

    @property
    def _scratch(self) -> Path:
        return self.settings.state_dir / "scratch"

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
            access = Access(self.settings, registry.snapshot)
            access.check_address(self.settings.host)
            self.report(f"registry {masked(url)}: {_count(registry)} adapters")
            if access.open:
                self.report(f"there are no keys: whoever reaches {self.settings.host} is an admin")
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
        try:
            await check_sole_owner(registry, blobs)
        except (Conflict, BlobsUnavailable) as error:
            # It serves all the same, and collection says so again.
            self.report(str(error))
        telemetry = Telemetry(settings.metric_labels)
        residency = Residency(blobs, settings.host_cache_bytes, settings.load_timeout_s, telemetry)
        base_names = arguments.served_model_name
        merged = Merges(settings.max_rank)
        resolver = Resolver(registry.snapshot, PUBLIC, base_names, base.fingerprint, settings.slots, merged)
        catalog = RegistryCatalog(registry, resolver)
        pace = Pace(lambda: supervisor.needs_cores)
        adapters = self._adapters(registry, blobs, residency, base, base_names, pace, learning)
        merges = self._merges(registry, blobs, resolver, merged, residency, adapters, arguments)
        registry.subscribe(lambda event: _revoke(event, registry, residency))
        _watch(registry)
        fleet = Fleet(
            registry,
            registry.replicas(EXPIRY_S),
            base.fingerprint,
            lambda: residency.residents,
            lambda: health.readiness().status,
        )
        warming = Warming(
            registry, fleet, residency.warm, base.fingerprint, settings.host_cache_bytes, settings.warm_versions
        )

        async def attach(engine: AdapterEngine) -> None:
            if self.app is None:
                # Imports much of vLLM: seconds that the event loop has other uses for.
                self.app = await asyncio.to_thread(build_app, arguments, engine)
                complete_app(self.app, settings, base, supervisor, services)
            await attach_engine(self.app, arguments, engine, catalog)
            # Before it is ready: requests must not meet an empty server.
            if warmed := await warming.run():
                self.report(f"{warmed} adapter versions are in host memory")

        supervisor = Supervisor(
            arguments, residency, attach, settings.restart_backoff_s, _weight_of(registry), telemetry
        )
        health = Health(registry, supervisor)
        services = Services(
            adapters,
            CompositionService(registry, resolver, PUBLIC, base_names),
            merges,
            Collector(registry, blobs, residency, settings.collect_after_s, PUBLIC, learning.needed_digests),
            health,
            Access(settings, registry.snapshot),
            TenantService(registry, locked=settings.admin_key is not None),
            Limiter(registry),
            fleet,
            learning,
        )
        self.report("starting the engine")
        await supervisor.start()
        fleet.start()
        sharing = asyncio.create_task(services.limiter.share())
        try:
            await self._answer(listener, services, resolver)
        finally:
            self.report("stopping: running requests may end")
            await merges.close()
            await fleet.stop()
            await supervisor.stop(settings.drain_s)
            await end(sharing)

    async def _answer(self, listener: socket.socket, services: Services, resolver: Resolver) -> None:
        url = f"http://{self.settings.host}:{listener.getsockname()[1]}"
        if self.when_up is not None:
            await self.when_up(services.adapters, url)
        rpc = RpcServer(self.settings, services, resolver, lambda: Generation(self.app) if self.app else None)
        self.report(f"gRPC on {await rpc.start()}")
        try:
            await self._listen_on(listener, url, rpc)
        finally:
            await rpc.stop(0)

    def _adapters(
        self,
        registry: Registry,
        blobs: BlobStore,
        residency: Residency,
        base: BaseModel,
        reserved: Sequence[str],
        pace: Pace,
        learning: LearningService,
    ) -> AdapterService:
        settings = self.settings
        return AdapterService(
            registry,
            blobs,
            base,
            Limits(max_rank=settings.max_rank, max_bytes=settings.max_adapter_bytes),
            SourcePolicy(
                allowed_urls=settings.allow_source, hub=settings.allow_hub, max_bytes=settings.max_adapter_bytes
            ),
            self._scratch,
            residency.warm,
            tenant=PUBLIC,
            reserved=reserved,
            adapter_root=settings.adapter_root,
            source_timeout_s=settings.source_timeout_s,
            pace=pace,
            forget=learning.forget_adapter,
        )

    def _merges(
        self,
        registry: Registry,
        blobs: BlobStore,
        resolver: Resolver,
        known: Merges,
        residency: Residency,
        adapters: AdapterService,
        arguments: Namespace,
    ) -> MergeService:
        settings = self.settings
        results = MergeResults(
            registry,
            blobs,
            known,
            MergeProcess(Path(arguments.model), settings.merge_threads, settings.max_rank),
            residency,
            self._scratch,
            settings.merge_cache_bytes,
        )
        limits = MergeLimits(wait_s=settings.merge_wait_s, retry_s=settings.merge_retry_s)
        return MergeService(registry, resolver, results, limits, adapters, PUBLIC, arguments.served_model_name)

    async def _listen_on(self, listener: socket.socket, url: str, rpc: RpcServer) -> None:
        if self.app is None:
            raise ConfigError("the engine started without an application")
        config = uvicorn.Config(
            self.app,
            log_level="warning",
            timeout_graceful_shutdown=max(1, round(self.settings.drain_s)),
            timeout_keep_alive=30,
        )

        async def drain() -> None:
            await rpc.stop(self.settings.drain_s)

        await _Http(config, lambda: self.report(f"serving on {url}"), drain).serve(sockets=[listener])


class _Http(uvicorn.Server):
    """uvicorn, which says when it really listens, and lets gRPC drain while it drains."""

    def __init__(
        self, config: uvicorn.Config, listening: Callable[[], None], drain: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(config)
        self._listening = listening
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(super().shutdown(sockets), self._drain())


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
    if isinstance(version, MergedVersion):
        return all(_exists(registry, parent) for parent in version.merged)
    try:
        found = registry.snapshot.resolve(version.tenant, version.adapter, version.label)
    except NotFound:
        return False
    return found.digest == version.digest


def _watch(registry: Registry) -> None:
    metrics.registry_live.set_function(lambda: float(registry.live))
    metrics.adapters.set_function(lambda: float(_count(registry)))


def _weight_of(registry: Registry) -> Callable[[str], float]:
    return lambda tenant: registry.snapshot.limits(tenant).weight


def _count(registry: Registry) -> int:
    return registry.snapshot.count
