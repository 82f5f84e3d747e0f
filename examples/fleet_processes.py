"""The processes of the fleet's demo: servers, the worker that learns, and the proxy in front of the servers."""

import asyncio
import csv
import io
import re
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from fleet_program import Program

START_S = 480.0

_PROXY = """
global
    log stderr format raw daemon emerg
defaults
    mode http
    timeout connect 2s
    timeout client 300s
    timeout server 300s
    # A server that is busy answers late, one that is gone refuses at once.
    timeout check 3s
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


class Serving(Program):
    """One `polyad serve --example`, which can be ended and started again on the same port and state folder."""

    def __init__(self, number: int, scratch: Path, redis_url: str, base_models: Path) -> None:
        self.number = number
        self.port = free_port()
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=10, trust_env=False)
        state = scratch / f"server-{number}"
        state.mkdir()
        (state / "base-models").symlink_to(base_models.absolute())
        command = f"serve --example --port {self.port} --grpc-port 0 --state-dir {state} --redis-url {redis_url}"
        blobs = ["--blobs", str(scratch / "blobs"), "--merge-wait-s", "120", "--gpu-memory-utilization", "0.15"]
        super().__init__(f"server {number}", [*command.split(), *blobs])

    async def start(self) -> float:
        """Start it and wait until it is ready; the seconds that this took. Raises TimeoutError."""
        began = time.monotonic()
        await self.launch()
        while time.monotonic() - began < START_S:
            if not self.running:
                raise TimeoutError(f"{self.name} ended; {self.last_words()}")
            if await self.status() is not None:
                print(f"   {self.name}: ready after {time.monotonic() - began:.0f} s", flush=True)
                return time.monotonic() - began
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{self.name} was not ready; {self.last_words()}")

    async def status(self) -> str | None:
        """What /ready says, None if it does not answer 200."""
        try:
            answer = await self.client.get("/ready")
        except httpx.HTTPError:
            return None
        return str(answer.json()["status"]) if answer.status_code == httpx.codes.OK else None

    async def says(self, status: str) -> bool:
        return await self.status() == status

    async def get(self, path: str) -> Any:
        """The JSON at a path. Raises httpx.HTTPError."""
        return (await self.client.get(path)).raise_for_status().json()

    async def production(self, adapter: str) -> str:
        """The version that it knows as an adapter's `production`."""
        return str((await self.get(f"/v1/adapters/{adapter}"))["aliases"]["production"])

    async def close(self) -> None:
        await self.client.aclose()
        await super().close()


class Learner(Program):
    """One `polyad learn`."""

    def __init__(self, scratch: Path, redis_url: str, base: Path) -> None:
        command = f"learn {base} --state-dir {scratch / 'learner'} --redis-url {redis_url}"
        options = ["--blobs", str(scratch / "blobs"), "--learn-poll-s", "0.2", "--learn-lease-s", "15"]
        super().__init__("the worker", [*command.split(), *options])

    async def start(self) -> float:
        """Start it and wait until it looks for work; the seconds that this took. Raises TimeoutError."""
        began = time.monotonic()
        await self.launch()
        while self.heard("registry") is None:
            if not self.running or time.monotonic() - began > START_S:
                raise TimeoutError(f"{self.name} does not work; {self.last_words()}")
            await asyncio.sleep(0.1)
        print(f"   {self.name}: looks for work after {time.monotonic() - began:.0f} s", flush=True)
        return time.monotonic() - began


class ServedFleet:
    """The servers, each with its way to Redis. The first registers the example's adapters; the others start together,
    beside a worker."""

    def __init__(self, scratch: Path, redis_urls: Sequence[str], base_models: Path, learner: Learner) -> None:
        self.servers = [Serving(number, scratch, url, base_models) for number, url in enumerate(redis_urls, 1)]
        self.learner = learner

    async def __aenter__(self) -> "ServedFleet":
        print(f"0. Starting {len(self.servers)} servers and a worker", flush=True)
        first, *others = self.servers
        try:
            await first.start()
            await asyncio.gather(self.learner.start(), *(server.start() for server in others))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            for program in (*self.servers, self.learner):
                print(f"\n{program.last_words()}", flush=True)
        await asyncio.gather(*(program.close() for program in (*self.servers, self.learner)))

    async def replicas(self) -> list[dict[str, Any]]:
        """What the first server knows of all."""
        listed: list[dict[str, Any]] = (await self.servers[0].get("/v1/replicas"))["data"]
        return listed

    async def all_say(self, status: str) -> bool:
        return all([await server.says(status) for server in self.servers])


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
        return len([row for row in rows if row["svname"].startswith("server-") and row["status"] == "UP"]) == number
