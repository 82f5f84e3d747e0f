"""A program of the fleet's demo: started, ended, killed and started again, with what it said."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

STOP_S = 90.0
_TAIL = 40

# vLLM binds an engine's threads to cores, those of every server on a machine to the same ones.
_ENGINE = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


class Program:
    """One `polyad` command."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.said: list[str] = []
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def launch(self) -> None:
        self.said.clear()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("POLYAD_")}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "polyad.serve.cli.main", *self._command),
            env={**kept, **_ENGINE},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._listener = asyncio.create_task(self._listen(self._process))

    async def kill(self) -> None:
        """SIGKILL to the program; what it started ends by itself."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; its exit code. Raises TimeoutError."""
        if self._process is None:
            return 0
        with suppress(ProcessLookupError):
            self._process.terminate()
        async with asyncio.timeout(STOP_S):
            return await self._process.wait()

    async def close(self) -> None:
        """Leave nothing behind."""
        if self._process is None:
            return
        with suppress(TimeoutError):
            await self.stop()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._listener is not None:
            await self._listener

    def heard(self, words: str) -> str | None:
        """The first line that holds these words."""
        return next((line for line in self.said if words in line), None)

    def last_words(self) -> str:
        return "\n".join([f"{self.name} said:", *self.said[-_TAIL:]])

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        while process.stderr is not None and (line := await process.stderr.readline()):
            self.said.append(line.decode(errors="replace").rstrip())
