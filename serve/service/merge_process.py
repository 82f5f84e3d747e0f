"""Runs a merge in a process of its own."""

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from polyad.adapters_store.errors import MergeFailed
from polyad.adapters_store.merge import Recipe

_MODULE = "polyad.adapters_store.merge.worker"
# The last line is the report of every module.
_LINE_BYTES = 64 * 2**20
_SHOWN = 500

Progress = Callable[[int, int], None]


class MergeProcess:
    """Starts one process for each merge. `base_folder` holds the base model's weights, if there are any."""

    def __init__(self, base_folder: Path | None, threads: int, max_rank: int) -> None:
        self._base_folder = base_folder
        self._threads = threads
        self._max_rank = max_rank

    async def run(self, recipe: Recipe, sources: Mapping[str, Path], out: Path, progress: Progress) -> dict[str, Any]:
        """Write the delta file `out`, and return what the worker says of it.

        A cancelled caller kills the process. Raises MergeFailed with the reason.
        """
        request = {
            "recipe": recipe.as_dict(),
            "sources": {source: str(path) for source, path in sources.items()},
            "base": None if self._base_folder is None else str(self._base_folder),
            "out": str(out),
            "threads": self._threads,
            "max_rank": self._max_rank,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", _MODULE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        try:
            return await _answer(process, request, progress)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _answer(
    process: asyncio.subprocess.Process, request: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise MergeFailed("merge: the worker has no pipes")
    stderr = asyncio.ensure_future(process.stderr.read())
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        async for line in process.stdout:
            message: dict[str, Any] = json.loads(line)
            if "error" in message:
                raise MergeFailed(f"merge: {message['error']}")
            if "digest" in message:
                return message
            progress(message["done"], message["of"])
        code = await process.wait()
        last = (await stderr).decode(errors="replace").strip().rpartition("\n")[2]
        raise MergeFailed(f"merge: the worker ended with {code}: {last[-_SHOWN:] or 'it was killed'}")
    except (BrokenPipeError, ConnectionResetError) as error:
        raise MergeFailed("merge: the worker was killed") from error
    finally:
        stderr.cancel()
