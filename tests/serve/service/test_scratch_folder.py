"""Scratch folders, and those that a killed server left."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from polyad.serve.service.scratch_folder import scratch_folder, swept_scratch

SERVER = """
import asyncio, sys
from pathlib import Path
from polyad.serve.service.scratch_folder import scratch_folder, swept_scratch

async def main():
    parent = Path(sys.argv[1])
    async with swept_scratch(parent), scratch_folder(parent) as folder:
        (folder / "half").write_text("x")
        print(folder, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


def there(path: Path) -> bool:
    return path.exists()


async def test_a_folder_lives_as_long_as_its_block(tmp_path: Path) -> None:
    async with scratch_folder(tmp_path) as folder:
        (folder / "file").write_text("x")
        assert folder.parent == tmp_path
    assert os.listdir(tmp_path) == []


async def test_what_a_killed_server_left_goes_at_the_next_start(tmp_path: Path) -> None:
    parent = tmp_path / "state" / "scratch"
    with subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", SERVER, str(parent)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        left = Path((await asyncio.to_thread(server.stdout.readline)).strip())
        async with swept_scratch(parent):
            # its own, while it lives
            assert there(left / "half")
        os.kill(server.pid, signal.SIGKILL)
    assert there(left)
    async with swept_scratch(parent), scratch_folder(parent) as own:
        assert os.listdir(parent) == [own.name]
        async with swept_scratch(parent):
            assert there(own)
