"""The servers on one registry, as this one sees them; and its own place among them."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version as installed_version
from typing import Protocol

from polyad.adapters_store.ending import end
from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.registry import Held, Registry, Replica, Replicas, Sighting, Version

logger = logging.getLogger(__name__)

BEAT_S = 3.0
EXPIRY_S = 15.0
# More would make the heartbeat of a server with thousands of versions large.
_TOLD = 256
_ANSWER_S = 2.0


class Resident(Protocol):
    """A version in host memory, as the engine's side keeps it."""

    version: Version
    leases: int

    @property
    def loaded(self) -> bool: ...


class Fleet:
    """Tells the others what this server holds, every BEAT_S seconds and when the registry changes; and lists them.

    `residents` gives what is in host memory, least recently used first; `status` is what /ready says.
    """

    def __init__(
        self,
        registry: Registry,
        replicas: Replicas,
        base: str,
        residents: Callable[[], Iterable[Resident]],
        status: Callable[[], str],
    ) -> None:
        self._registry = registry
        self._replicas = replicas
        self._base = base
        self._residents = residents
        self._status = status
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        # Reads the package's metadata, of which the README is a part.
        self._release = installed_version("polyad")
        self.id = replicas.new_id()

    @property
    def revision(self) -> int:
        """How far this server has followed the registry."""
        return self._registry.snapshot.revision

    def start(self) -> None:
        """Begin to tell."""
        self._registry.subscribe(lambda _: self._changed.set())
        self._task = asyncio.create_task(self._run(), name="polyad-fleet")

    async def stop(self) -> None:
        """Leave the fleet."""
        if self._task is not None:
            await end(self._task)
        with suppress(RegistryUnavailable, TimeoutError):
            async with asyncio.timeout(_ANSWER_S):
                await self._replicas.leave(self.id)
        await self._replicas.close()

    async def living(self) -> list[Sighting]:
        """All servers that were heard of lately. Raises RegistryUnavailable."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._replicas.living()
        except TimeoutError as error:
            raise RegistryUnavailable("registry: Redis does not answer: which servers live is unknown") from error

    async def popular(self) -> list[tuple[str, str, int]]:
        """Tenant, adapter and number of what the servers hold, what most of them hold first. Raises as `living`."""
        votes: Counter[tuple[str, str, int]] = Counter()
        for sighting in await self.living():
            if sighting.replica.base == self._base and sighting.replica.id != self.id:
                votes.update((held.tenant, held.adapter, held.number) for held in sighting.replica.held)
        return [key for key, _ in votes.most_common()]

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await self._replicas.beat(self._self())
            except (RegistryUnavailable, TimeoutError):
                logger.debug("the fleet was not told: Redis is away")
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await self._changed.wait()
            self._changed.clear()

    def _self(self) -> Replica:
        residents = list(self._residents())[::-1][:_TOLD]
        return Replica(
            id=self.id,
            name=socket.gethostname(),
            release=self._release,
            base=self._base,
            revision=self.revision,
            status=self._status(),
            held=tuple(_held(resident) for resident in residents),
        )


def _held(resident: Resident) -> Held:
    version = resident.version
    return Held(
        tenant=version.tenant,
        adapter=version.adapter,
        number=version.number,
        digest=version.digest,
        tier="host" if resident.loaded else "loading",
        requests=resident.leases,
    )
