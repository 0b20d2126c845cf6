"""aiohttp's connection handler, with two things changed: it notes when bytes arrived, and answers otherwise
to bytes that are no request.

Those aiohttp answers in plain text with its version, echoes some of it, and logs a traceback for each, which
lets any stranger flood the log. Here they get the same problem document as everybody else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from aiohttp import web

from server.arrival import age_reader
from server.errors import Problem, respond
from server.exchange import Exchange
from server.headers import Decorator
from server.telemetry import Telemetry

log = logging.getLogger("hedgerow.server")


class EdgeProtocol(web.RequestHandler):
    """One connection from a caller."""

    __slots__ = ("_age", "_decorator", "_telemetry", "arrived")

    def __init__(
        self, manager: web.Server, decorator: Decorator, telemetry: Telemetry, **kwargs: Any
    ) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **kwargs)
        self._decorator = decorator
        self._telemetry = telemetry
        self.arrived = 0.0

    def data_received(self, data: bytes) -> None:
        """
        Note when the bytes arrived, before anything else: in a burst, the handler wakes tens of milliseconds
        later, and the bytes themselves may have waited in the kernel.

        On a connection with a request under way the stamp is left alone: what comes is pipelined, and its
        time would be too early for the request that is waiting.
        """
        if not self._request_in_progress:
            self.arrived = time.monotonic() - self._age()
        super().data_received(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller has connected."""
        self._age = age_reader(transport)
        super().connection_made(transport)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The response to bytes that are no request (4xx), or to a bug beyond every handler (500)."""
        if status >= 500:
            log.error("a bug: a request failed outside its handler", exc_info=exc)
            problem = Problem(status, "internal", "An unexpected error occurred.")
        else:
            problem = Problem(status, "bad_request", "The bytes received are not a valid HTTP/1.1 request.")
        self._telemetry.response("unparsed", status, problem.code, 0.0)
        exchange = Exchange(None, 0.0)
        response = respond(problem, exchange.id, "")
        self._decorator(response, exchange.id, None)
        response.force_close()
        return response
