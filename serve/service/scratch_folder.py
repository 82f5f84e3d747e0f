"""A folder that lives as long as a block of a coroutine, made and removed without holding up the event loop; and where
a server has such folders."""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_PREFIX = "polyad-"


@asynccontextmanager
async def swept_scratch(parent: Path) -> AsyncIterator[None]:
    """For a server's life: make `parent`, and remove what killed servers left in it, unless another server uses it."""
    lock = await asyncio.to_thread(_sweep, parent)
    try:
        yield
    finally:
        os.close(lock)


def _sweep(parent: Path) -> int:
    parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(parent.with_name(f"{parent.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # With a Redis outside nothing keeps two servers from one state_dir. Where there are no locks nothing is swept.
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in parent.glob(f"{_PREFIX}*"):
            shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


@asynccontextmanager
async def scratch_folder(parent: Path) -> AsyncIterator[Path]:
    folder = await asyncio.to_thread(tempfile.mkdtemp, dir=parent, prefix=_PREFIX)
    try:
        yield Path(folder)
    finally:
        # To free the pages of a large file takes milliseconds, in which no token would be sent.
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
