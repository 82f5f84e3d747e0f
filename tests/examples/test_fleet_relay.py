"""The relay of the fleet's demo, before a server that sends back what it gets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from examples.fleet_relay import Relay

_SOON_S = 5.0
_SILENCE_S = 0.2

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Sends back what it gets; `left` is set when a connection has ended."""

    def __init__(self, path: str) -> None:
        self.relay = Relay(path)
        self.left = asyncio.Event()
        self._clients: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while sent := await reader.read(1024):
            writer.write(sent)
        writer.close()
        self.left.set()

    async def connected(self) -> Ends:
        """A connection through the relay."""
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(self.relay.url).port)
        self._clients.append(writer)
        return reader, writer

    async def close(self) -> None:
        await self.relay.stop()
        for writer in self._clients:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
async def echo(tmp_path: Path) -> AsyncIterator[Echo]:
    found = Echo(str(tmp_path / "echo"))
    server = await asyncio.start_unix_server(found.serve, tmp_path / "echo")
    await found.relay.start()
    yield found
    await found.close()
    server.close()
    # The echo's own ends close when they hear of the others'.
    await asyncio.sleep(0.05)


async def echoed(ends: Ends, text: bytes) -> bytes:
    ends[1].write(text)
    return await asyncio.wait_for(ends[0].readexactly(len(text)), _SOON_S)


async def test_it_forwards_both_ways(echo: Echo) -> None:
    first, second = await echo.connected(), await echo.connected()
    assert await echoed(first, b"one") == b"one"
    assert await echoed(second, b"two" * 100_000) == b"two" * 100_000
    second[1].write_eof()
    assert await asyncio.wait_for(second[0].read(), _SOON_S) == b""


async def test_refusing_ends_what_is_open_and_lets_nobody_in(echo: Echo) -> None:
    before = await echo.connected()
    await echoed(before, b"one")
    await echo.relay.refuse()
    assert await asyncio.wait_for(before[0].read(), _SOON_S) == b""
    with pytest.raises(ConnectionRefusedError):
        await echo.connected()
    await echo.relay.heal()
    assert await echoed(await echo.connected(), b"two") == b"two"


async def test_a_hush_keeps_all_open_and_delivers_late(echo: Echo) -> None:
    before = await echo.connected()
    await echoed(before, b"one")
    await echo.relay.hush()
    waiting = asyncio.create_task(echoed(before, b"two"))
    knocking = asyncio.create_task(echo.connected())
    done, _ = await asyncio.wait((waiting, knocking), timeout=_SILENCE_S)
    assert not done
    await echo.relay.heal()
    assert await waiting == b"two"
    assert await echoed(await knocking, b"three") == b"three"


async def test_the_end_of_a_connection_is_not_heard_of_in_a_hush(echo: Echo) -> None:
    ends = await echo.connected()
    await echoed(ends, b"one")
    await echo.relay.hush()
    ends[1].close()
    await asyncio.sleep(_SILENCE_S)
    assert not echo.left.is_set()
    await echo.relay.heal()
    await asyncio.wait_for(echo.left.wait(), _SOON_S)
