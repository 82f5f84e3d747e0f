"""What holds a running training: its lease is renewed, its progress told, and it ends when it is told to."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from polyad.adapters_store.ending import end
from polyad.adapters_store.errors import RegistryUnavailable
from polyad.adapters_store.feedback import Fenced, Lease, Run, Runs

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_BEATS = 4
_MOST_CURVE = 500


class Cancelled(Exception):
    """Somebody ordered the run to end."""


class Reins:
    """Shared by the event loop and the thread that works."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._stop: Exception | None = None
        self._curve: list[tuple[int, float]] = []
        self._step = (run.step, run.steps)
        self._saving = asyncio.Lock()
        self._telling = False

    @asynccontextmanager
    async def training(self) -> AsyncIterator[None]:
        """Within, progress is saved; after it, the state of the run is its owner's alone to write."""
        self._telling = True
        try:
            yield
        finally:
            async with self._saving:
                self._telling = False

    async def tell(self, runs: Runs, lease: Lease) -> bool:
        """Save the progress, if there is any; whether there was. Raises Fenced."""
        async with self._saving:
            if not self._telling or self._step[0] == self.run.step:
                return False
            self.run = await runs.save(lease, self._progressed())
            return True

    def watch(self, step: int, steps: int, loss: float) -> None:
        """Told by the thread after each step. Raises Cancelled or Fenced when the run is over."""
        self._step = (step, steps)
        self._curve.append((step, round(loss, 5)))
        self.check()

    def check(self) -> None:
        """Raises Cancelled or Fenced when the run is over."""
        if self._stop is not None:
            raise self._stop

    def stop(self, reason: Exception) -> None:
        self._stop = reason

    async def thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Work in a thread. When this is cancelled, so is the work, and it has ended when this ends."""
        running = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self.stop(Cancelled("the worker ends"))
            await asyncio.gather(running, return_exceptions=True)
            raise

    def _progressed(self) -> Run:
        changes = {"step": self._step[0], "steps": self._step[1], "curve": thinned(self._curve), "changed": time.time()}
        return self.run.model_copy(update=changes)


@asynccontextmanager
async def held(
    runs: Runs, lease: Lease, run: Run, lease_s: float, report: Callable[[str], None]
) -> AsyncIterator[Reins]:
    """Within, the lease is kept and the progress saved, several times in the life of the lease."""
    reins = Reins(run)
    task = asyncio.create_task(_keep(runs, lease, reins, lease_s, report), name="polyad-reins")
    try:
        yield reins
    finally:
        await end(task)


async def _keep(runs: Runs, lease: Lease, reins: Reins, lease_s: float, report: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(min(1.0, lease_s / _BEATS))
        try:
            await runs.renew(lease, lease_s)
            if await runs.order(reins.run) == "cancel":
                reins.stop(Cancelled("it was cancelled"))
            if await reins.tell(runs, lease):
                report(f"{reins.run.adapter}: step {reins.run.step} of {reins.run.steps}")
        except Fenced as error:
            reins.stop(error)
            return
        except RegistryUnavailable as error:
            # Nobody else can take the lease while Redis is away; if it is lost when it is back, the fence says so.
            logger.warning("learn: %s", error)


def thinned(curve: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """At most 500 points of a curve, the last one among them."""
    every = -(-len(curve) // _MOST_CURVE)
    return tuple(curve[::-1][:: max(1, every)][::-1])
