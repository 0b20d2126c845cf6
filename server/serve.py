"""From an application to a listening server, and from SIGTERM to a clean end that loses nobody's request.

The end has four steps: say so (readiness turns 503, each answer closes its connection) and go on serving for
``drain_delay``; stop listening; let requests in flight finish and idle connections go; close what the
application opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import termios
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice

from aiohttp import web

from server.app import DIRECT, LIFECYCLE, SHEDDING, TELEMETRY
from server.error_reports import error_reports
from server.front import front
from server.headers import Decorator
from server.lifecycle import Lifecycle
from server.listener import Listener
from server.patience import Patience
from server.protocol import EdgeProtocol
from server.settings import Settings

log = logging.getLogger("hedgerow.server")

BACKLOG = 4096
KEEPALIVE = 75.0
"""Seconds an idle connection is kept, as nginx does."""
LINGER = 2.0
"""Seconds for which the rest of an unwanted body is read, so that its caller gets to read the answer."""

QUIET = 1.0
"""Seconds that a connection has been idle, while we were leaving, before it may be closed."""
CANCELLED_WITHIN = 1.0
"""Seconds that requests have to end once their time is over, and again once they were cancelled."""
TWINS = 0.5
"""Seconds within which a second signal is the first one again: to the whole group, and by the parent."""


def listen(host: str, port: int) -> socket.socket:
    """
    A socket bound to *host* and *port*, not yet accepting.

    Raises:
        OSError: the address is in use, not ours, or does not exist.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


class Farewell:
    """
    Lets the callers of *server* go without losing what one of them sends at that moment.

    A caller may send on an idle connection while we close it, and HTTP/1.1 has no way to say beforehand that
    we will. So connections are closed after an answer that says so, and the idle ones only when they had
    their time to ask once more, and when the kernel has nothing from them that we have not read.

    Attributes:
        hurry: once set, nobody is waited for who is not being answered.
    """

    def __init__(self, server: web.Server, lifecycle: Lifecycle) -> None:
        self._server = server
        self._lifecycle = lifecycle
        self._since: dict[web.RequestHandler, float] = {}
        self.hurry = asyncio.Event()

    def begin(self) -> None:
        """From now on each answer closes its connection; connections that are idle are so since now."""
        self._lifecycle.draining = True
        now = asyncio.get_running_loop().time()
        self._since = dict.fromkeys(self._server.connections, now)

    async def complete(self, quiet: float, within: float) -> None:
        """Until all connections are closed, the idle ones after *quiet* seconds; at most *within* seconds."""
        self._lifecycle.draining = True
        clock = asyncio.get_running_loop().time
        until = clock() + within
        while self._server.connections and clock() < until:
            self._close_idle(0.0 if self.hurry.is_set() else quiet, clock())
            await asyncio.sleep(TURN)

    def _close_idle(self, quiet: float, now: float) -> None:
        idle = (one for one in self._server.connections if not one._request_in_progress)
        for connection in islice(self._ripe(idle, quiet, now), BATCH):
            _hang_up(connection.transport)
            connection.force_close()

    def _ripe(
        self, idle: Iterator[web.RequestHandler], quiet: float, now: float
    ) -> Iterator[web.RequestHandler]:
        for one in idle:
            since = self._since.setdefault(one, now)
            if isinstance(one, EdgeProtocol):
                since = max(since, one.arrived)  # half a request has come, or one that waits for its handler
            if now - since >= quiet and _nothing_on_its_way(one.transport):
                yield one


TURN = 0.01
"""Seconds between two looks at the connections that are left."""
BATCH = 200
"""Connections closed in one look: about 4 ms, while requests wait."""


def _hang_up(transport: asyncio.BaseTransport | None) -> None:
    """Tell the caller now: closing a transport does so a turn of the loop later, with requests in between."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as same:
            same.shutdown(socket.SHUT_WR)


def _nothing_on_its_way(transport: asyncio.Transport | None) -> bool:
    """Whether there is no answer that is still being sent, and no request that was not read yet."""
    if transport is None or transport.is_closing():
        return False  # it is going by itself, when the caller has taken all of its answer
    return transport.get_write_buffer_size() == 0 and not _unread(transport)


def _unread(transport: asyncio.BaseTransport | None) -> int:
    """How many bytes the kernel holds that were not read yet; 0 where it does not tell."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.fileno() < 0:
        return 0
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)


@contextlib.asynccontextmanager
async def serving(
    app: web.Application, settings: Settings, sock: socket.socket
) -> AsyncIterator[tuple[str, Farewell]]:
    """Serve *app* on *sock* while the block runs; on leaving, requests in flight finish. Yields the URL."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=CANCELLED_WITHIN)
    await runner.setup()
    try:
        assert runner.server is not None  # noqa: S101 - setup() made it
        farewell = Farewell(runner.server, app[LIFECYCLE])
        loop = asyncio.get_running_loop()
        heads, bodies = Patience(settings.header_timeout, loop), Patience(settings.body_timeout, loop)
        factory = front(
            runner.server,
            Decorator(settings.cors_origins),
            app[TELEMETRY],
            app[DIRECT],
            app.get(SHEDDING),
            app[LIFECYCLE],
            heads=heads,
            bodies=bodies,
            access_log=None,
            keepalive_timeout=KEEPALIVE,
            lingering_time=LINGER,
            auto_decompress=False,  # a compressed body is refused, not opened
        )
        listener = Listener(sock, factory)
        host, port = sock.getsockname()[:2]
        listener.open()
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}", farewell
        finally:
            quiet = min(QUIET, settings.drain_delay) if app[LIFECYCLE].draining else 0.0
            await listener.close()
            await farewell.complete(quiet, settings.shutdown_timeout)
            heads.close()
            bodies.close()
    finally:
        await runner.cleanup()


async def run(
    app: web.Application,
    settings: Settings,
    sock: socket.socket,
    accepting: Callable[[str], None] | None = None,
    lifeline: int | None = None,
) -> None:
    """
    Serve until SIGTERM or SIGINT, then drain. A second signal, or a SIGINT, cuts the drain delay short.

    Args:
        accepting: called with the URL when connections are accepted; else a log line says so.
        lifeline: of a worker, the pipe that ends with its parent; then it drains too.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    asked = 0.0

    def asked_to_stop(number: signal.Signals) -> None:
        nonlocal asked
        twin = lifeline is not None and loop.time() - asked < TWINS
        if number is signal.SIGINT or (stop.is_set() and not twin):
            hurry.set()
        asked = loop.time()
        stop.set()

    def orphaned() -> None:
        assert lifeline is not None  # noqa: S101 - it was watched
        loop.remove_reader(lifeline)
        asked_to_stop(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop, number)
    if lifeline is not None:
        loop.add_reader(lifeline, orphaned)
    with error_reports(settings.sentry_dsn):
        async with serving(app, settings, sock) as (url, farewell):
            farewell.hurry = hurry
            (accepting or _say)(url)
            await stop.wait()
            farewell.begin()
            log.info("draining: answering what comes, closing each connection")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), settings.drain_delay)
    log.info("stopped")


def _say(url: str) -> None:
    log.info("listening on %s", url, extra={"url": url})
