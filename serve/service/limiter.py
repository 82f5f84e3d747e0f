"""The limits of tenants on requests: how many run, and how many began in this minute.

Each server counts its own, and hears about once a second what the others counted: so a limit holds for all servers
together, but for what begins in that second, and asking costs no time. While Redis is away each server counts alone.
"""

import asyncio
import json
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from polyad.adapters_store.errors import LimitReached, RegistryUnavailable
from polyad.adapters_store.registry import Registry

logger = logging.getLogger(__name__)

_EXCHANGE_S = 1.0
_FORGET_S = 5
_MINUTE_S = 60
_RETRY_S = 1


class Limiter:
    """Counts the requests for inference. `clock` gives Unix seconds."""

    def __init__(self, registry: Registry, clock: Callable[[], float] = time.time) -> None:
        self._registry = registry
        self._clock = clock
        self._server = secrets.token_hex(8)
        self._minute = 0
        self._begun: Counter[str] = Counter()
        self._running: Counter[str] = Counter()
        self._others_minute = 0
        self._others_begun: Counter[str] = Counter()
        self._others_running: Counter[str] = Counter()

    @contextmanager
    def running(self, tenant: str) -> Iterator[None]:
        """A request of the tenant, from its beginning to its end. Raises LimitReached."""
        self._check(tenant)
        self._begun[tenant] += 1
        self._running[tenant] += 1
        try:
            yield
        finally:
            self._running[tenant] -= 1
            self._running += Counter()  # who has none running is not kept

    async def share(self) -> None:
        """Exchange counts with the other servers, for as long as this is not cancelled."""
        while True:
            try:
                await self.exchange()
            except RegistryUnavailable:
                self._others_begun.clear()
                self._others_running.clear()
            await asyncio.sleep(_EXCHANGE_S)

    async def exchange(self) -> None:
        """Exchange counts once. Raises RegistryUnavailable."""
        self._turn()
        own = json.dumps({"minute": self._minute, "begun": self._begun, "running": self._running})
        told = await self._registry.exchange_usage(self._server, own, _FORGET_S)
        self._turn()
        begun: Counter[str] = Counter()
        running: Counter[str] = Counter()
        for one in map(json.loads, told):
            running.update(one["running"])
            if one["minute"] == self._minute:
                begun.update(one["begun"])
        self._others_minute, self._others_begun, self._others_running = self._minute, begun, running

    def _check(self, tenant: str) -> None:
        self._turn()
        limits = self._registry.snapshot.limits(tenant)
        running = self._running[tenant] + self._others_running[tenant]
        if limits.max_running is not None and running >= limits.max_running:
            raise LimitReached("max_running", running + 1, f"at most {limits.max_running} requests at once", _RETRY_S)
        begun = self._begun[tenant] + self._others_begun[tenant]
        if limits.requests_per_minute is not None and begun >= limits.requests_per_minute:
            left_s = _MINUTE_S - int(self._clock()) % _MINUTE_S
            allowed = f"at most {limits.requests_per_minute} requests a minute"
            raise LimitReached("requests_per_minute", begun + 1, allowed, left_s)

    def _turn(self) -> None:
        minute = int(self._clock()) // _MINUTE_S
        if minute != self._minute:
            self._minute = minute
            self._begun.clear()
        if self._others_minute != minute:
            self._others_begun.clear()
