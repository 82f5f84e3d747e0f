"""Work beside something that needs the machine's cores more: it rests in between, for as long as that is busy."""

import asyncio
import time
from collections.abc import Callable

# A stretch of work is to be short beside a step of the engine, and the rests long enough that no step meets two.
WORK_S = 0.003
REST_S = 0.02


def _never() -> bool:
    return False


class Pace:
    """`busy` says whether somebody needs the cores now; without it nobody ever does. Seconds of work, and of rest."""

    def __init__(self, busy: Callable[[], bool] = _never, work_s: float = WORK_S, rest_s: float = REST_S) -> None:
        self._busy = busy
        self._work_s = work_s
        self._rest_s = rest_s
        self._rested = 0.0

    def rest(self) -> None:
        """Between two pieces of work in one thread: rests if the last ones took that thread long enough."""
        if time.thread_time() - self._rested > self._work_s:
            if self._busy():
                time.sleep(self._rest_s)
            self._rested = time.thread_time()

    async def pause(self) -> None:
        """Between two pieces of work in an event loop, each of which takes long enough."""
        if self._busy():
            await asyncio.sleep(self._rest_s)
