"""A real redis-server as a child of this process, for those who run none: data in a folder, no network port."""

import asyncio
import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from polyad.adapters_store.ending import end
from polyad.adapters_store.errors import ConfigError
from polyad.adapters_store.registry.binary import find_binary
from polyad.adapters_store.registry.folder import Folder

logger = logging.getLogger(__name__)

_TETHER = Path(__file__).with_name("tether.py")
_START_S = 30.0
_STOP_S = 5.0
_POLL_S = 0.01
_PING_S = 1.0
_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 2.0
_STEADY_S = 10.0
_LOG_TAIL = 500


class EmbeddedRedis:
    """Started again whenever it dies; every write that it acknowledged is on disk.

    It dies with this process, or with the thread that called `start`: the kernel ties it to that thread.
    """

    def __init__(self, folder: Path, binary: str | None = None) -> None:
        self._folder = Folder(folder)
        self._binary = find_binary(binary)
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"unix://{quote(os.fspath(self._folder.socket))}"

    @property
    def pid(self) -> int | None:
        """The process id of the server, None while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Return once it answers. Raise ConfigError if the folder is in use, or the program does not run."""
        if self._watcher is not None:
            raise ConfigError("the embedded Redis is already started")
        await asyncio.to_thread(self._folder.acquire)
        try:
            await self._launch()
        except BaseException:
            await self._end()
            self._folder.release()
            raise
        self._watcher = asyncio.create_task(self._watch(), name="polyad-embedded-redis")

    async def stop(self) -> None:
        if self._watcher is None:
            return
        await end(self._watcher)
        self._watcher = None
        await self._end()
        self._folder.release()

    async def _launch(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", str(_TETHER), str(os.getpid()), self._binary, *self._settings()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            # A Ctrl-C in the terminal is for the owner, who then stops the server.
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_S
        while not await self._answers():
            if self._process.returncode is not None or time.monotonic() > deadline:
                raise ConfigError(f"redis-server did not start in {self._folder.path}: {self._last_words()}")
            await asyncio.sleep(_POLL_S)

    def _settings(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": os.fspath(self._folder.socket),
            "unixsocketperm": "700",
            "dir": os.fspath(self._folder.path),
            "logfile": os.fspath(self._log),
            "loglevel": "warning",
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [argument for name, value in settings.items() for argument in (f"--{name}", value)]

    async def _answers(self) -> bool:
        socket = os.fspath(self._folder.socket)
        client = Redis(unix_socket_path=socket, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=_PING_S)
        try:
            return bool(await client.ping())
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()

    async def _watch(self) -> None:
        delay_s = _FIRST_DELAY_S
        while True:
            since = time.monotonic()
            if self._process is not None:
                code = await self._process.wait()
                logger.warning("the embedded Redis ended (exit code %d); starting it again", code)
            delay_s = _FIRST_DELAY_S if time.monotonic() - since > _STEADY_S else min(2 * delay_s, _LONGEST_DELAY_S)
            await asyncio.sleep(delay_s)
            try:
                await self._launch()
            except (ConfigError, OSError) as error:
                logger.error("%s", error)
                await self._end()

    async def _end(self) -> None:
        process = self._process
        if process is None:
            return
        try:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await asyncio.wait_for(process.wait(), _STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()

    @property
    def _log(self) -> Path:
        return self._folder.path / "redis.log"

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return self._log.read_text(errors="replace")[-_LOG_TAIL:].strip()
        return "no log"
