"""What a server loads before it says that it is ready."""

import logging

from polyad.adapters_store.errors import PolyadError, RegistryUnavailable
from polyad.adapters_store.registry import Registry, Version
from polyad.serve.compose import Plan
from polyad.serve.service.adapters import Warm
from polyad.serve.service.fleet import Fleet

logger = logging.getLogger(__name__)


class Warming:
    """All that is pinned, then what most of the other servers hold, as far as host memory goes."""

    def __init__(self, registry: Registry, fleet: Fleet, warm: Warm, base: str, budget: int, most: int) -> None:
        self._registry = registry
        self._fleet = fleet
        self._warm = warm
        self._base = base
        self._budget = budget
        self._most = most

    async def run(self) -> int:
        """Load them; how many were loaded. What fails is logged, and left out."""
        loaded = 0
        for version in await self._wanted():
            try:
                await self._warm(Plan.single(version))
                loaded += 1
            except PolyadError as error:
                logger.warning("not warmed: %s@%s: %s", version.adapter, version.label, error)
        return loaded

    async def _wanted(self) -> list[Version]:
        # The oldest first, so that every server chooses the same where not all have room.
        pinned = sorted(self._registry.snapshot.pinned(), key=lambda version: version.created)
        others = [version for version in await self._held_elsewhere() if version not in pinned][: self._most]
        wanted, room = [], self._budget
        for version in (*pinned, *others):
            if version.base == self._base and version.size <= room:
                wanted.append(version)
                room -= version.size
            elif version.base == self._base and version.pinned:
                logger.warning("not warmed: %s@%s: host_cache_bytes is full", version.adapter, version.label)
        return wanted

    async def _held_elsewhere(self) -> list[Version]:
        if not self._most:
            return []
        try:
            popular = await self._fleet.popular()
        except RegistryUnavailable:
            return []
        found = (self._registry.snapshot.find_version(*key) for key in popular)
        return [version for version in found if version is not None]
