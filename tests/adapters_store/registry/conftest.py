import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from polyad.adapters_store.registry import EmbeddedRedis, Registry, VersionDraft

Open = Callable[..., Awaitable[Registry]]
Eventually = Callable[[Callable[[], Any]], Awaitable[float]]


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "redis")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def open_registry() -> AsyncIterator[Open]:
    async with contextlib.AsyncExitStack() as stack:

        async def opened(url: str, **options: Any) -> Registry:
            registry = Registry(url, **options)
            await registry.start()
            stack.push_async_callback(registry.close)
            return registry

        yield opened


@pytest.fixture
async def registry(redis: EmbeddedRedis, open_registry: Open) -> Registry:
    return await open_registry(redis.url)


@pytest.fixture
def draft() -> Callable[[int], VersionDraft]:
    def build(seed: int) -> VersionDraft:
        # The varied part stands first, so that prefixes of different digests differ.
        digest = f"{seed:016x}".ljust(64, "0")
        return VersionDraft(
            digest=digest, size=seed + 1, base="base", rank=8, targets=("v_proj", "q_proj"), source="upload"
        )

    return build


@pytest.fixture
def eventually() -> Eventually:
    """Wait until something holds, at most 10 s; the seconds it took."""

    async def wait(holds: Callable[[], Any]) -> float:
        began = time.monotonic()
        while not (await result if inspect.isawaitable(result := holds()) else result):
            assert time.monotonic() - began < 60, "it did not come true in 60 s"
            await asyncio.sleep(0.002)
        return time.monotonic() - began

    return wait


class Proxy:
    """A TCP door to a unix socket that can lose answers: what a broken network does."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._cut: bytes | None = None
        self._seen: list[bytes] = []
        self.url = ""

    def cut_answers_to(self, command: bytes) -> None:
        self._cut = command
        self._seen.clear()

    def seen(self, command: bytes) -> int:
        return sum(command in sent for sent in self._seen)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._path)
        cut = asyncio.Event()

        async def forward() -> None:
            while sent := await reader.read(65536):
                self._seen.append(sent)
                if self._cut and self._cut in sent:
                    cut.set()
                server_writer.write(sent)
                await server_writer.drain()

        async def backward() -> None:
            while answer := await server_reader.read(65536):
                if cut.is_set():
                    return
                writer.write(answer)
                await writer.drain()

        ways = [asyncio.create_task(forward()), asyncio.create_task(backward())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, server_writer):
                end.close()


@pytest.fixture
async def proxy(redis: EmbeddedRedis) -> AsyncIterator[Proxy]:
    door = Proxy(redis.url.removeprefix("unix://"))
    server = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    door.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield door
    server.close()
