"""From an application to a listening server, and from SIGTERM to a clean end that loses nobody's request.

The end has four steps: say so (readiness turns 503, each answer closes its connection) and go on serving for
``drain_delay``; stop listening; let requests in flight finish; close what the application opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import AsyncIterator

from aiohttp import web

from server.app import LIFECYCLE, TELEMETRY
from server.headers import Decorator
from server.protocol import protocol_factory
from server.settings import Settings

log = logging.getLogger("hedgerow.server")

BACKLOG = 4096
KEEPALIVE = 75.0
"""Seconds an idle connection is kept, as nginx does; also how long a caller may take to send its headers."""


def listen(host: str, port: int) -> socket.socket:
    """
    A socket bound to *host* and *port*, not yet accepting.

    Raises:
        OSError: the address is in use, not ours, or does not exist.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


@contextlib.asynccontextmanager
async def serving(app: web.Application, settings: Settings, sock: socket.socket) -> AsyncIterator[str]:
    """Serve *app* on *sock* while the block runs; on leaving, requests in flight finish. Yields the URL."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=settings.shutdown_timeout)
    await runner.setup()
    try:
        assert runner.server is not None  # noqa: S101 - setup() made it
        factory = protocol_factory(
            runner.server,
            Decorator(settings.cors_origins),
            app[TELEMETRY],
            access_log=None,
            keepalive_timeout=KEEPALIVE,
        )
        server = await asyncio.get_running_loop().create_server(factory, sock=sock, backlog=BACKLOG)
        host, port = sock.getsockname()[:2]
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            server.close()
            await asyncio.sleep(0)  # connections accepted a moment ago get their handler
    finally:
        await runner.cleanup()


async def run(app: web.Application, settings: Settings, sock: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal, or a SIGINT, cuts the drain delay short."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def asked_to_stop(number: signal.Signals) -> None:
        if stop.is_set() or number is signal.SIGINT:
            hurry.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop, number)
    async with serving(app, settings, sock) as url:
        log.info("listening on %s", url, extra={"url": url})
        await stop.wait()
        app[LIFECYCLE].draining = True
        log.info("draining: answering what comes, closing each connection")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(hurry.wait(), settings.drain_delay)
    log.info("stopped")
