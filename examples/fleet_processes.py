"""The processes of the fleet's demo: servers and the proxy in front of them."""

import asyncio
import csv
import io
import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

START_S = 480.0
STOP_S = 90.0

_PROXY = """
global
    log stderr format raw daemon emerg
defaults
    mode http
    timeout connect 2s
    timeout client 300s
    timeout server 300s
    retries 5
    option redispatch 1
    # What a server did not begin to answer, another one may.
    retry-on conn-failure empty-response 503
frontend clients
    bind 127.0.0.1:{port}
    option http-buffer-request
    default_backend servers
frontend state
    bind 127.0.0.1:{state}
    stats enable
    stats uri /
backend servers
    balance leastconn
    option httpchk GET /ready
    default-server check inter 300ms fall 1 rise 1 on-marked-down shutdown-sessions
{servers}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Serving:
    """One `polyad serve --example`, which can be ended and started again on the same port and state folder."""

    def __init__(self, number: int, scratch: Path, redis_url: str, base_models: Path) -> None:
        self.number = number
        self.port = free_port()
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=10, trust_env=False)
        self.said: list[str] = []
        state = scratch / f"server-{number}"
        state.mkdir()
        (state / "base-models").symlink_to(base_models.absolute())
        command = f"serve --example --port {self.port} --state-dir {state} --redis-url {redis_url}"
        self._command = [*command.split(), "--blobs", str(scratch / "blobs"), "--gpu-memory-utilization", "0.15"]
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None

    async def start(self) -> float:
        """Start it and wait until it is ready; the seconds that this took. Raises TimeoutError."""
        began = time.monotonic()
        self.said.clear()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("POLYAD_")}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "polyad.serve.cli.main", *self._command),
            env={**kept, "VLLM_CPU_KVCACHE_SPACE": "1"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._listener = asyncio.create_task(self._listen(self._process))
        while time.monotonic() - began < START_S:
            if self._process.returncode is not None:
                raise TimeoutError(f"server {self.number} ended:\n" + "\n".join(self.said[-40:]))
            if await self.status() is not None:
                print(f"   server {self.number}: ready after {time.monotonic() - began:.0f} s", flush=True)
                return time.monotonic() - began
            await asyncio.sleep(0.1)
        raise TimeoutError(f"server {self.number} was not ready:\n" + "\n".join(self.said[-40:]))

    async def status(self) -> str | None:
        """What /ready says, None if it does not answer 200."""
        try:
            answer = await self.client.get("/ready")
        except httpx.HTTPError:
            return None
        return str(answer.json()["status"]) if answer.status_code == httpx.codes.OK else None

    async def kill(self) -> None:
        """SIGKILL to the server; what it started ends by itself."""
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
        await self.client.aclose()
        if self._process is None:
            return
        with suppress(TimeoutError):
            await self.stop()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if self._listener is not None:
            await self._listener

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        while process.stderr is not None and (line := await process.stderr.readline()):
            self.said.append(line.decode(errors="replace").rstrip())


class ServedFleet:
    """The servers, started one after the other: the first registers the example's adapters."""

    def __init__(self, scratch: Path, redis_url: str, servers: int, base_models: Path) -> None:
        base_models.mkdir(parents=True, exist_ok=True)
        self.servers = [Serving(number + 1, scratch, redis_url, base_models) for number in range(servers)]

    async def __aenter__(self) -> "ServedFleet":
        print(f"0. Starting {len(self.servers)} servers", flush=True)
        try:
            for server in self.servers:
                await server.start()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(server.close() for server in self.servers))

    async def replicas(self) -> list[dict[str, Any]]:
        """What the first server knows of all."""
        answer = await self.servers[0].client.get("/v1/replicas")
        listed: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
        return listed

    async def all_say(self, status: str) -> bool:
        return all([await server.status() == status for server in self.servers])


class Proxy:
    """HAProxy before the servers: the fewest connections first, only to those whose /ready says so."""

    def __init__(self, command: list[str], scratch: Path, ports: list[int]) -> None:
        self._command = command
        self._port, self._state = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        lines = [f"    server server-{number + 1} 127.0.0.1:{port}" for number, port in enumerate(ports)]
        self._file = scratch / "haproxy.cfg"
        self._file.write_text(_PROXY.format(port=self._port, state=self._state, servers="\n".join(lines)))

    async def __aenter__(self) -> "Proxy":
        self._process = await asyncio.create_subprocess_exec(*self._command, "-db", "-f", str(self._file))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            self._process.terminate()
        await self._process.wait()

    async def serves(self, number: int) -> bool:
        """Whether so many servers are up, as the proxy sees them."""
        try:
            async with httpx.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{self._state}/;csv")
        except httpx.HTTPError:
            return False
        rows = csv.DictReader(io.StringIO(re.sub(r"^# ", "", answer.text)))
        return sum(row["svname"].startswith("server-") and row["status"] == "UP" for row in rows) == number
