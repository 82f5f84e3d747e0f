"""Work beside something that needs the machine's cores more: it rests in between, for as long as that is busy."""

import asyncio
import time
from collections.abc import Callable

# A stretch of work is to be short beside a step of the engine, and the rests long enough that no step meets two.
_WORK_S = 0.003
_REST_S = 0.02


def _never() -> bool:
    return False


class Pace:
    """`busy` says whether somebody needs the cores now; without it nobody ever does."""

    def __init__(self, busy: Callable[[], bool] = _never) -> None:
        self._busy = busy
        self._rested = 0.0

    def rest(self) -> None:
        """Between two pieces of work in one thread: rests if the last ones took that thread long enough."""
        if time.thread_time() - self._rested > _WORK_S:
            if self._busy():
                time.sleep(_REST_S)
            self._rested = time.thread_time()

    async def pause(self) -> None:
        """Between two pieces of work in an event loop, each of which takes long enough."""
        if self._busy():
            await asyncio.sleep(_REST_S)
