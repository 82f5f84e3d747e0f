"""A TCP door to Redis, which fails in the two ways in which a network does."""

import asyncio
import socket
from contextlib import suppress

_CHUNK = 65536


class Relay:
    """Forwards connections to a unix socket.

    `refuse` closes what is open and lets nobody in. In a `hush` nobody is refused and nothing is closed, but no byte
    moves and no new connection is answered; what was sent on the open ones arrives when it is over, as TCP would send
    it again. `heal` ends either.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._door = _bound(0)
        self._port: int = self._door.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._filler: socket.socket | None = None
        self._flowing = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}"

    async def start(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, sock=self._door)

    async def stop(self) -> None:
        await self.refuse()
        self._door.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def refuse(self) -> None:
        self._shut()
        self._flowing.set()
        for writer in self._open:
            writer.transport.abort()

    async def hush(self) -> None:
        self._shut()
        self._flowing.clear()
        # Where one waits to be accepted and there is room for no more, Linux drops whoever knocks.
        self._door.listen(0)
        self._filler = socket.create_connection(("127.0.0.1", self._port))

    async def heal(self) -> None:
        self._shut()
        await self.start()

    def _shut(self) -> None:
        """Leave a door that is bound, so that nobody else gets the port, and at which nobody listens."""
        if self._server is not None:
            self._server.close()
        if self._filler is not None:
            self._filler.close()
        self._door.close()
        self._server = self._filler = None
        self._door = _bound(self._port)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connect(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        try:
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_unix_connection(self._path)
                ends.add(far_writer)
                self._open |= ends
                await asyncio.gather(self._forward(reader, far_writer), self._forward(far_reader, writer))
        finally:
            self._open -= ends
            for end in ends:
                end.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while sent := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(sent)
                await writer.drain()
        # In a cut, not even the end of a connection is heard of.
        await self._flowing.wait()
        writer.close()


def _bound(port: int) -> socket.socket:
    door = socket.socket()
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.bind(("127.0.0.1", port))
    return door
