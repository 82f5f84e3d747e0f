"""Keeps one engine alive: starts it, notices its death, starts the next, with a bounded back-off."""

import asyncio
import logging
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable

from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext

from polyad.serve.engine import metrics
from polyad.serve.engine.arguments import engine_arguments
from polyad.serve.engine.engine import AdapterEngine
from polyad.serve.engine.engine_metrics import EngineMetrics
from polyad.serve.engine.remains import collect_remains, forget_engines
from polyad.serve.engine.residency import Residency
from polyad.serve.engine.telemetry import Telemetry

logger = logging.getLogger(__name__)

STARTING = "starting"
READY = "ready"
RESTARTING = "restarting"
STOPPED = "stopped"

_WATCH_S = 0.1
_REPORT_S = 10.0
_FIRST_BACKOFF_S = 0.5
_STABLE_AFTER_S = 60.0


class Supervisor:
    """Owns the engine. `attach` is called with each new engine before it is announced as ready;
    `weight_of` gives the weight of a tenant."""

    def __init__(
        self,
        arguments: Namespace,
        residency: Residency,
        attach: Callable[[AdapterEngine], Awaitable[None]],
        longest_backoff_s: float,
        weight_of: Callable[[str], float],
        telemetry: Telemetry,
    ) -> None:
        self._arguments = arguments
        self._residency = residency
        self._attach = attach
        self._longest_backoff_s = longest_backoff_s
        self._weight_of = weight_of
        self._telemetry = telemetry
        self._watcher: asyncio.Task[None] | None = None
        self.engine: AdapterEngine | None = None
        self.state = STARTING

    @property
    def ready(self) -> bool:
        """Whether requests can be sent to the engine now."""
        return self.state == READY and self.engine is not None and not self.engine.errored

    @property
    def needs_cores(self) -> bool:
        """Whether requests run on the machine's own cores, which all that computes beside them takes from them."""
        engine = self.engine
        return engine is not None and current_platform.is_cpu() and engine.get_num_unfinished_requests() > 0

    async def start(self) -> None:
        """Start the first engine and the watch over it. Raises what vLLM raises if it cannot start at all."""
        await self._start_engine()
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self, drain_s: float) -> None:
        """Let running requests end for at most `drain_s` seconds, then stop the engine."""
        if self._watcher is not None:
            self._watcher.cancel()
        engine, self.state = self.engine, STOPPED
        if engine is not None:
            for _ in range(round(drain_s / _WATCH_S)):
                if engine.errored or not engine.get_num_unfinished_requests():
                    break
                await asyncio.sleep(_WATCH_S)
            await asyncio.to_thread(engine.shutdown)

    async def _start_engine(self) -> None:
        engine = await asyncio.to_thread(self._build)
        engine.residency = self._residency
        engine.weight_of = self._weight_of
        engine.telemetry = self._telemetry
        engine.supported_tasks = await engine.get_supported_tasks()
        self._residency.attach(engine)
        await self._attach(engine)
        self.engine, self.state = engine, READY
        metrics.engine_up.set(1)

    def _build(self) -> AdapterEngine:
        arguments = engine_arguments(self._arguments)
        config = arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        return AdapterEngine.from_vllm_config(
            vllm_config=config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            enable_log_requests=arguments.enable_log_requests,
            disable_log_stats=arguments.disable_log_stats,
            stat_loggers=[EngineMetrics],
        )

    async def _watch(self) -> None:
        pause = _FIRST_BACKOFF_S
        while True:
            lived_s = await self._until_death()
            await self._bury()
            pause = _FIRST_BACKOFF_S if lived_s > _STABLE_AFTER_S else min(2 * pause, self._longest_backoff_s)
            await self._revive(pause)

    async def _until_death(self) -> float:
        born = reported = time.monotonic()
        while self.engine is not None and not self.engine.errored:
            await asyncio.sleep(_WATCH_S)
            if self.engine is not None and self.engine.log_stats and time.monotonic() - reported > _REPORT_S:
                reported = time.monotonic()
                await self.engine.do_log_stats()
        return time.monotonic() - born

    async def _bury(self) -> None:
        logger.error("the engine died; requests that it ran have ended with an error; starting it again")
        self.state = RESTARTING
        metrics.engine_up.set(0)
        metrics.engine_restarts.inc()
        self._residency.attach(None)
        engine, self.engine = self.engine, None
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)
        del engine
        forget_engines()

    async def _revive(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            try:
                await self._start_engine()
            except Exception:
                pause = min(2 * pause, self._longest_backoff_s)
                logger.exception("the engine did not start; next attempt in %.1f s", pause)
            else:
                collect_remains()
                logger.info("the engine is back")
                return
