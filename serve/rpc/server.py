"""The gRPC server: the same services as HTTP's, in the same event loop."""

import asyncio
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from polyad.adapters_store.errors import ConfigError
from polyad.proto import (
    adapters_pb2,
    adapters_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    merges_pb2,
    merges_pb2_grpc,
    open_inference_pb2,
    open_inference_pb2_grpc,
)
from polyad.serve.compose import Resolver
from polyad.serve.config import MIB, Settings
from polyad.serve.engine.generation import Generation
from polyad.serve.rpc.adapters import AdaptersServicer
from polyad.serve.rpc.feedback import FeedbackServicer
from polyad.serve.rpc.inference import Generator, InferenceServicer
from polyad.serve.rpc.merges import MergesServicer
from polyad.serve.rpc.open_inference import OpenInferenceServicer
from polyad.serve.rpc.parsing import Parsing
from polyad.serve.service import Services

_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * MIB),
    ("grpc.max_send_message_length", 4 * MIB),
    ("grpc.max_metadata_size", 16 * 1024),
    # Or a second server would take half of the calls.
    ("grpc.so_reuseport", 0),
)
_CALLS = 4096
_PACKAGES = ("polyad.v1", "inference")
_WATCH_S = 0.2

_NAMES = (
    inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name,
    adapters_pb2.DESCRIPTOR.services_by_name["Adapters"].full_name,
    merges_pb2.DESCRIPTOR.services_by_name["Merges"].full_name,
    feedback_pb2.DESCRIPTOR.services_by_name["Feedback"].full_name,
    open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name,
)


class RpcServer:
    """Listens from `start` to `stop`. Health follows readiness, for the server and for each of its services."""

    def __init__(
        self,
        settings: Settings,
        services: Services,
        resolver: Resolver,
        generation: Callable[[], Generation | None],
    ) -> None:
        self._settings = settings
        self._readiness = services.health
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server = grpc.aio.server(
            interceptors=[Parsing(_PACKAGES)], options=_OPTIONS, maximum_concurrent_rpcs=_CALLS
        )
        self._watcher: asyncio.Task[None] | None = None
        generator = Generator(services, generation)
        inference_pb2_grpc.add_InferenceServicer_to_server(InferenceServicer(services, generator), self._server)
        adapters = AdaptersServicer(services, settings.max_adapter_bytes)
        adapters_pb2_grpc.add_AdaptersServicer_to_server(adapters, self._server)
        merges_pb2_grpc.add_MergesServicer_to_server(MergesServicer(services), self._server)
        feedback_pb2_grpc.add_FeedbackServicer_to_server(FeedbackServicer(services), self._server)
        open_inference = OpenInferenceServicer(services, generator, resolver)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(open_inference, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*_NAMES, "grpc.health.v1.Health", reflection.SERVICE_NAME), self._server)

    async def start(self) -> str:
        """Listen; the address. Raises ConfigError."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        try:
            port = self._server.add_insecure_port(f"{host}:{self._settings.grpc_port}")
        except RuntimeError as error:
            place = f"{host}:{self._settings.grpc_port}"
            raise ConfigError(f"cannot listen on {place} for gRPC (grpc_port): {error}") from error
        await self._server.start()
        self._watcher = asyncio.create_task(self._watch())
        return f"{host}:{port}"

    async def stop(self, drain_s: float) -> None:
        """Take no more calls, and let those that run end for at most `drain_s` seconds. Safe to call again."""
        if self._watcher is not None:
            self._watcher.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(drain_s)

    async def _watch(self) -> None:
        said: bool | None = None
        while True:
            ready = self._readiness.readiness().ready
            if ready != said:
                said = ready
                status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
                for name in ("", *_NAMES):
                    await self._health.set(name, status)
            await asyncio.sleep(_WATCH_S)
