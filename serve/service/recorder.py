"""Keeps interactions for feedback, beside the requests: Redis being away or slow is not felt by them."""

import asyncio
import logging
from collections import deque

from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.feedback import FeedbackStore, Interaction

logger = logging.getLogger(__name__)

_WAITING = 1000
_PATIENCE_S = 0.5


class Recorder:
    """What cannot be stored at once is stored with a later one, or when it is asked for; the oldest of more than 1000
    are lost."""

    def __init__(self, store: FeedbackStore) -> None:
        self._store = store
        self._waiting: deque[Interaction] = deque(maxlen=_WAITING)
        self._draining = asyncio.Lock()

    async def record(self, interaction: Interaction) -> None:
        """Store it, or return without having done so after half a second."""
        if len(self._waiting) == _WAITING:
            logger.warning("feedback: an interaction was not kept: Redis is away and %d others wait", _WAITING)
        self._waiting.append(interaction)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self.drain()
        except (TimeoutError, RegistryUnavailable) as error:
            logger.debug("feedback: interactions wait: %s", error)

    async def drain(self) -> None:
        """Store what waits. Raises RegistryUnavailable."""
        async with self._draining:
            while self._waiting:
                await self._store.keep(self._waiting[0])
                self._waiting.popleft()
