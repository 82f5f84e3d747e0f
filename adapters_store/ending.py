"""Ending tasks for good: libraries below swallow a cancel now and then, and whoever waits would wait for ever."""

import asyncio
from typing import Any

_AGAIN_S = 1.0


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it is done. Raises what it ended with, if that is no cancel."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN_S)
    if not task.cancelled():
        task.result()
