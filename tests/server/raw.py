"""A whole server on a socket of loopback, and callers who speak to it in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeAlias

from aiohttp import web

from server.app import ROUTES, SHEDDING, create_app
from server.routes import load_table
from server.serve import listen, serving
from server.settings import load_settings
from upstream.admission import Refusal


class Connection:
    """One connection of a caller."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send *raw*; the next response."""
        self.writer.write(raw)
        return await self.answer()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """The next response: status, headers and body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *fields = head.rstrip("\r\n").split("\r\n")
        headers = dict(line.split(": ", 1) for line in fields)
        body = await self.reader.readexactly(int(headers.get("Content-Length", 0)))
        return int(status.split()[1]), headers, body


class Server:
    """An application that is served as it is run, and whose gate the test can shut."""

    def __init__(self, app: web.Application, port: int, stack: AsyncExitStack) -> None:
        self.app = app
        self._port = port
        self._stack = stack

    async def connect(self) -> Connection:
        """A connection, closed with the server."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._stack.callback(writer.close)
        return Connection(reader, writer)

    def full(self, *, full: bool = True) -> None:
        """Refuse everybody, or nobody any more."""
        gate = self.app[SHEDDING].gate
        if full:
            gate.enter = lambda guest, now: guest.refuse(Refusal("wait", 2))  # type: ignore[method-assign]
        else:
            del gate.enter

    @property
    def in_flight(self) -> int:
        """As the gate counts it."""
        return self.app[SHEDDING].gate.in_flight

    async def metric(self, name: str) -> float:
        """One sample of ``/metrics``."""
        _, _, body = await (await self.connect()).ask(get("/metrics"))
        return next(
            float(line.rpartition(" ")[2]) for line in body.decode().splitlines() if line.startswith(name)
        )


Serve: TypeAlias = Callable[..., Awaitable[Server]]


@asynccontextmanager
async def servers(**always: str) -> AsyncIterator[Serve]:
    """Start servers with the given settings; all end with the block."""
    async with AsyncExitStack() as stack:

        async def start(**environ: str) -> Server:
            quiet = {"SIMULATOR_FAILURE": "0", "SIMULATOR_INVALID": "0", "SIMULATOR_HANG": "0"}
            quiet["DOWNLOADS"] = "off"
            given = {"SIMULATOR_LATENCY": "constant:1", "DRAIN_DELAY_MS": "0", **quiet, **always, **environ}
            settings = load_settings(given)
            app = create_app(settings, load_table(ROUTES.read_text("utf-8"), settings.environ))
            sock = stack.enter_context(listen("127.0.0.1", 0))
            await stack.enter_async_context(serving(app, settings, sock))
            return Server(app, sock.getsockname()[1], stack)

        yield start


def get(target: str, fields: bytes = b"", version: str = "1.1", method: str = "GET") -> bytes:
    """The bytes of a request without a body."""
    return f"{method} {target} HTTP/{version}\r\nHost: x\r\n".encode() + fields + b"\r\n"


async def until(so: Callable[[], object]) -> None:
    """Let the loop turn until it is *so*."""
    while not so():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0)
