"""What workers that were killed, or lost their lease, left on disk."""

import asyncio
import shutil
from pathlib import Path

from polyad.adapters_store.feedback import Runs


async def remove_leftovers(folder: Path, runs: Runs) -> None:
    """Remove the folders in `folder` of runs that are over. Raises RegistryUnavailable."""
    for left in await asyncio.to_thread(lambda: list(folder.glob("run-*"))):
        if not await runs.is_open(left.name):
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
