"""Clients that mean harm, or know no better, beside one that does not: what the good one sees, and what is left behind.

In turn: NAMES requests for names that nobody has; readers that take nothing of their streams; writers that send a
header and then a byte now and then; connections closed for sending in the middle of a request, or dropped. While each
of them is there, a client that means well asks, and must be answered. Ends 0 if every refusal was a 4xx, every good
answer was the same text, and the server's memory grew by less than GROWTH_MB.
"""

import argparse
import asyncio
import json
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from polyad.serve.example import unpack_base_model
from tests.bench.machine import print_header, print_result
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad, server_memory_mb

NAMES = 100_000
AT_ONCE = 32
CONNECTIONS = 64
HELD_S = 30.0
GROWTH_MB = 64.0
_LONG = 600


@dataclass
class Well:
    """The client that means well: one question, always the same; what it was answered, and how long it took."""

    url: str
    model: str
    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    async def ask(self, client: httpx.AsyncClient) -> None:
        body = {"model": self.model, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        began = time.perf_counter()
        answer = await client.post("/v1/completions", json=body)
        self.seconds.append(time.perf_counter() - began)
        self.answers[answer.json()["choices"][0]["text"] if answer.is_success else f"{answer.status_code}"] += 1

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """Asks all the time."""
        async with httpx.AsyncClient(base_url=self.url, timeout=300) as client:

            async def go_on() -> None:
                while True:
                    await self.ask(client)
                    await asyncio.sleep(0.2)

            await self.ask(client)
            task = asyncio.create_task(go_on())
            try:
                yield
                await self.ask(client)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def unknown_names(url: str, names: int) -> Counter[int]:
    """Ask for that many names which nobody has, each once, as models and as adapters; the answers by status."""
    found: Counter[int] = Counter()
    waiting = iter(range(names))

    async def ask(client: httpx.AsyncClient) -> None:
        for number in waiting:
            if number % 2:
                answer = await client.get(f"/v1/adapters/nobody-{number}")
            else:
                body = {"model": f"nobody-{number}", "prompt": "x", "max_tokens": 1}
                answer = await client.post("/v1/completions", json=body)
            found[answer.status_code] += 1

    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        await asyncio.gather(*(ask(client) for _ in range(AT_ONCE)))
    return found


def _request(body: bytes, length: int | None = None, path: str = "/v1/completions") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length or len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    # a small window, so that what is not read soon fills it
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (parts.hostname, parts.port))
    return await asyncio.open_connection(sock=plain, limit=1024)


async def slow_reader(url: str, model: str) -> None:
    """Asks for a long stream and reads none of it."""
    body = {"model": model, "prompt": "Once", "max_tokens": _LONG, "ignore_eos": True, "stream": True}
    _, writer = await _connect(url)
    writer.write(_request(json.dumps(body).encode()))
    await asyncio.sleep(HELD_S)
    writer.transport.abort()


async def slow_writer(url: str, model: str) -> None:
    """Sends the header of a long request, and a byte of its body each second."""
    _, writer = await _connect(url)
    writer.write(_request(b"{", length=100_000))
    for _ in range(int(HELD_S)):
        await asyncio.sleep(1)
        writer.write(b" ")
    writer.transport.abort()


async def half_closed(url: str, model: str) -> None:
    """Sends half of a request, says that it sends no more, and waits for what comes."""
    reader, writer = await _connect(url)
    writer.write(_request(b'{"model": "', length=1000))
    writer.write_eof()
    try:
        await asyncio.wait_for(reader.read(), HELD_S)
    except (TimeoutError, ConnectionError):
        pass
    writer.transport.abort()


async def dropped(url: str, model: str) -> None:
    """Leaves in the middle of a stream, again and again."""
    body = {"model": model, "prompt": "Once", "max_tokens": _LONG, "ignore_eos": True, "stream": True}
    ends = time.monotonic() + HELD_S
    while time.monotonic() < ends:
        reader, writer = await _connect(url)
        writer.write(_request(json.dumps(body).encode()))
        await reader.readline()
        await asyncio.sleep(1)
        writer.transport.abort()


async def quiet(url: str, seconds: float = 120.0) -> bool:
    """Whether the engine comes to rest: nobody's request is left running."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            lines = (await client.get("/metrics")).text.splitlines()
            counts = [
                line for line in lines if line.startswith(("vllm:num_requests_running{", "vllm:num_requests_wai"))
            ]
            if not any(float(line.split()[-1]) for line in counts):
                return True
            await asyncio.sleep(0.5)
    return False


def open_files(server: int) -> int:
    return int(psutil.Process(server).num_fds())


ATTACKS: tuple[Callable[[str, str], Awaitable[None]], ...] = (slow_reader, slow_writer, half_closed, dropped)


async def measure(url: str, model: str, server: int, names: int) -> tuple[dict[str, float], list[str]]:
    well, failures = Well(url, model), []
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(well.asking())
        # what is made on first use is no leak
        await unknown_names(url, 2000)
        memory, files = server_memory_mb(server), open_files(server)
        began = time.perf_counter()
        answers = await unknown_names(url, names)
        rate = names / (time.perf_counter() - began)
        after_names = server_memory_mb(server)
        print(
            f"unknown names   {dict(answers)}, {rate:.0f} a second, memory {memory:.0f} to {after_names:.0f} MB",
            flush=True,
        )
        if set(answers) != {404}:
            failures.append(f"unknown names were answered {dict(answers)}")
        for attack in ATTACKS:
            await asyncio.gather(*(attack(url, model) for _ in range(CONNECTIONS)))
            print(
                f"{attack.__name__:15} {CONNECTIONS} connections, memory {server_memory_mb(server):.0f} MB", flush=True
            )
    if not await quiet(url):
        failures.append("work of clients that left goes on in the engine")
    grown, left = server_memory_mb(server) - memory, open_files(server) - files
    if len(well.answers) != 1 or any(text.isdigit() for text in well.answers):
        failures.append(f"the client that means well was answered {dict(well.answers)}")
    if grown > GROWTH_MB:
        failures.append(f"memory grew by {grown:.0f} MB")
    result = {
        "unknown_per_s": rate,
        "names_growth_mb": after_names - memory,
        "growth_mb": grown,
        "files_left": left,
        "answered": well.answers.total(),
        "worst_answer_s": max(well.seconds),
        "failures": len(failures),
    }
    return result, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    parser.add_argument("--names", type=int, default=NAMES)
    given = parser.parse_args()
    model = unpack_base_model(given.base_models, print)
    settings = {
        "model": model.name,
        "dtype": DTYPE,
        "engine": " ".join([*ENGINE, EAGER]),
        "names": given.names,
        "connections": f"{CONNECTIONS} of each kind, for {HELD_S:g} s",
    }
    print_header("hostile", settings)
    with tempfile.TemporaryDirectory() as folder, polyad(model, Path(folder)) as server:
        result, failures = asyncio.run(measure(server.url, model.name, server.process.pid, given.names))
    for failure in failures:
        print(failure)
    print_result(result)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
