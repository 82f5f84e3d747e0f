"""The background task that keeps the snapshot equal to what Redis has."""

import asyncio
import logging
import random
import time

from polyad.adapters_store.registry.feed import Feed
from polyad.adapters_store.registry.snapshot import OutOfOrder
from polyad.adapters_store.registry.store import Store

logger = logging.getLogger(__name__)

BLOCK_MS = 1000
NOTICE_S = 2.5
LOAD_S = 15.0
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 1.0


class Tail:
    """`live` while the last answer of Redis is recent; otherwise it tries to come back, for as long as it takes."""

    def __init__(self, store: Store, feed: Feed) -> None:
        self.live = False
        self.seen_at = time.monotonic()
        self._store = store
        self._feed = feed

    async def load(self) -> None:
        async with asyncio.timeout(LOAD_S):
            snapshot = await self._store.load()
        self._feed.reload(snapshot)
        self.live = True
        self.seen_at = time.monotonic()

    async def run(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            try:
                if not self.live:
                    await self.load()
                    logger.info("registry: read again at revision %d", self._feed.snapshot.revision)
                await self._follow()
                delay_s = FIRST_DELAY_S
            except Exception as error:
                # Whatever it is, the snapshot goes on serving and this task must not end.
                await self._lost(error)
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(2 * delay_s, LONGEST_DELAY_S)

    async def _follow(self) -> None:
        # The limit is longer than the wait for news: a Redis that hangs without closing is noticed by silence.
        async with asyncio.timeout(NOTICE_S):
            changes = await self._store.read(self._feed.snapshot.revision, BLOCK_MS)
            if not changes and await self._store.birth() != self._feed.snapshot.birth:
                raise OutOfOrder("the registry was set up anew")
        self._feed.advance(changes)
        self.seen_at = time.monotonic()

    async def _lost(self, error: Exception) -> None:
        if self.live:
            logger.warning(
                "registry: lost (%s: %s); serving goes on from revision %d",
                type(error).__name__,
                error,
                self._feed.snapshot.revision,
            )
        self.live = False
        await self._store.drop_idle()
