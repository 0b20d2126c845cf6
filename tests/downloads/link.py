"""A TCP link to a server, which a test makes slow, holds or cuts. It knows nothing of what goes over it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PIECE = 64 * 1024


class Link:
    """
    Made by `link_to`; whole until it is told otherwise.

    Attributes:
        port: where it listens.
        pace: seconds that each byte takes; 0.0: none.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self.pace = 0.0
        self._target = port
        self._flows, self._cut = asyncio.Event(), asyncio.Event()
        self._flows.set()
        self._before_cut: int | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def hold(self) -> None:
        """From now on nothing comes through, and no connection ends."""
        self._flows.clear()

    def cut_after(self, sent: int) -> None:
        """After so many bytes more to the server all connections are cut, and new ones as they come."""
        self._before_cut = sent

    async def was_cut(self) -> None:
        """Wait until that has happened."""
        await self._cut.wait()

    def mend(self) -> None:
        """It is whole again; what was held comes through."""
        self.pace = 0.0
        self._before_cut = None
        self._cut.clear()
        self._flows.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        self._writers.add(writer)
        try:
            if not self._cut.is_set():
                await self._join(reader, writer)
        except OSError:
            pass  # cut, or the server is away
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        tasks = [
            asyncio.create_task(self._carry(reader, to_server, up=True), name="link to the server"),
            asyncio.create_task(self._carry(server, writer, up=False), name="link from the server"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            to_server.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        while data := await reader.read(1 if self.pace else PIECE):
            await self._flows.wait()
            await asyncio.sleep(self.pace)
            writer.write(self._let_through(data) if up else data)
            await writer.drain()

    def _let_through(self, data: bytes) -> bytes:
        if self._before_cut is None:
            return data
        passed = data[: self._before_cut]
        self._before_cut -= len(passed)
        if not self._before_cut:
            self._cut.set()
            for writer in self._writers:
                writer.transport.abort()
        return passed


@asynccontextmanager
async def link_to(port: int) -> AsyncIterator[Link]:
    """A link to that port of this machine."""
    link = Link(port)
    server = await asyncio.start_server(link.serve, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        server.close()
        link.mend()
        for writer in link._writers:
            writer.transport.abort()
        await server.wait_closed()
