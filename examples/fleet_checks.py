"""What a step of the fleet's demo promises, and whether it held."""

import asyncio
import time
from collections.abc import Awaitable, Callable

WAIT_S = 60.0


class Failed(Exception):
    """A step did not do what it promises."""


def check(promise: str, held: bool) -> None:
    """Print what was promised and whether it held. Raises Failed."""
    print(f"   {'ok' if held else 'FAILED'}: {promise}", flush=True)
    if not held:
        raise Failed(promise)


async def until(holds: Callable[[], Awaitable[bool]], seconds: float, what: str, every_s: float = 0.01) -> float:
    """Wait until a coroutine answers true, asking it now and then; the seconds that it took. Raises Failed."""
    began = time.monotonic()
    while not await holds():
        if time.monotonic() - began > seconds:
            raise Failed(f"{what}: not within {seconds:g} s")
        await asyncio.sleep(every_s)
    return time.monotonic() - began
