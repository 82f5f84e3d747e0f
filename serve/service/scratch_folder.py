"""A folder that lives as long as a block of a coroutine, made and removed without holding up the event loop."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path


@asynccontextmanager
async def scratch_folder(parent: Path | None = None) -> AsyncIterator[Path]:
    """In `parent`, or where the system keeps such folders."""
    folder = await asyncio.to_thread(tempfile.mkdtemp, dir=parent, prefix="polyad-")
    try:
        yield Path(folder)
    finally:
        # To free the pages of a large file takes milliseconds, in which no token would be sent.
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
