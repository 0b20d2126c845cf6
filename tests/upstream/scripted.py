"""A raw-socket upstream on loopback that plays a script per connection, byte by byte; no HTTP library in it.

Connection 0 plays the first script, and so on; further connections repeat the last one. When a script is
over, the connection is closed. Actions wait for events and bytes, never for time.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias


class PeerGone(Exception):
    """The caller hung up while the script wanted to read from it: the script of this connection is over."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it came over the wire."""

    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        """The request line."""
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        """The headers, by their names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.split(":", 1) for line in lines if line)
        return {name.lower(): text.strip() for name, text in pairs}


class Connection:
    """One accepted connection, as the actions see it."""

    def __init__(
        self, upstream: ScriptedUpstream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.upstream = upstream
        self.reader = reader
        self.writer = writer


Action: TypeAlias = Callable[[Connection], Awaitable[None]]
Script: TypeAlias = Sequence[Action]


def read() -> Action:
    """Read one whole request and record it."""

    async def act(connection: Connection) -> None:
        try:
            head = await connection.reader.readuntil(b"\r\n\r\n")
            received = Received(head, b"")
            body = await connection.reader.readexactly(int(received.headers.get("content-length", "0")))
        except asyncio.IncompleteReadError:
            raise PeerGone from None
        connection.upstream.requests.append(Received(head, body))

    return act


def send(data: bytes) -> Action:
    """Send *data* in one piece."""

    async def act(connection: Connection) -> None:
        connection.writer.write(data)
        await connection.writer.drain()

    return act


def send_in_pieces(data: bytes, size: int = 1) -> Action:
    """Send *data* in pieces of *size* bytes, with a turn of the loop between them."""

    async def act(connection: Connection) -> None:
        for start in range(0, len(data), size):
            connection.writer.write(data[start : start + size])
            await connection.writer.drain()
            await asyncio.sleep(0)

    return act


def close() -> Action:
    """Close the connection in an orderly way."""

    async def act(connection: Connection) -> None:
        connection.writer.close()

    return act


def reset() -> Action:
    """Drop the connection with a TCP reset."""

    async def act(connection: Connection) -> None:
        sock = connection.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.writer.transport.abort()

    return act


def half_close() -> Action:
    """Say that nothing more will be sent, and keep listening."""

    async def act(connection: Connection) -> None:
        connection.writer.write_eof()

    return act


def hang() -> Action:
    """Say nothing more until the caller hangs up."""

    async def act(connection: Connection) -> None:
        while await connection.reader.read(65536):
            pass
        raise PeerGone

    return act


def wait(event: asyncio.Event) -> Action:
    """Go on when *event* is set."""

    async def act(connection: Connection) -> None:
        await event.wait()

    return act


def tell(event: asyncio.Event) -> Action:
    """Set *event*, so that the test knows how far the script has come."""

    async def act(connection: Connection) -> None:
        event.set()

    return act


def repeat(*actions: Action) -> Action:
    """Do *actions* again and again until the caller hangs up."""

    async def act(connection: Connection) -> None:
        while True:
            for action in actions:
                await action(connection)

    return act


class ScriptedUpstream:
    """
    Listens on a free port of loopback while its ``async with`` block runs; leaving it ends every script and
    closes every connection, and raises what a broken script raised.

    Attributes:
        connections: how many were accepted.
        requests: those that were read, in order.
        gone: set when the script of some connection has ended and its socket is closed.
    """

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self._playing: set[asyncio.Task[None]] = set()
        self._broken: list[BaseException] = []
        self.connections = 0
        self.requests: list[Received] = []
        self.gone = asyncio.Event()

    @property
    def port(self) -> int:
        """The port it listens on."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where to send requests."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", 0, ssl=self._tls, backlog=1024, limit=2**20
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._playing:
            task.cancel()
        if self._playing:
            await asyncio.wait(self._playing)
        await self._server.wait_closed()
        if self._broken and error is None:
            raise self._broken[0]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self._scripts[min(self.connections, len(self._scripts) - 1)]
        self.connections += 1
        task = asyncio.ensure_future(self._play(script, Connection(self, reader, writer)))
        self._playing.add(task)
        task.add_done_callback(self._played)

    async def _play(self, script: Script, connection: Connection) -> None:
        try:
            with contextlib.suppress(PeerGone, OSError):
                for action in script:
                    await action(connection)
            connection.writer.close()
        except BaseException:
            connection.writer.transport.abort()
            raise
        finally:
            with contextlib.suppress(OSError):
                await connection.writer.wait_closed()
            self.gone.set()

    def _played(self, task: asyncio.Task[None]) -> None:
        self._playing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken.append(error)


def answer(body: bytes = b'{"time": 1}', *headers: str, status: str = "200 OK") -> bytes:
    """A well-formed answer with a length, in bytes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body
