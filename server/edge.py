"""What every request passes on its way in and out: an id, an arrival time, one form for errors, one log line.

It is one middleware, not five: each one on the way costs every request, and their order would be a riddle.
Requests that aiohttp never sees (`server.direct`) are told to the same `Edge`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from server.access_log import AccessLog
from server.errors import Problem, from_http, respond
from server.exchange import EXCHANGE, Exchange
from server.headers import Decorator, is_preflight, preflight
from server.lifecycle import Lifecycle
from server.protocol import BAD_BODY, BROKEN_BODY, EdgeProtocol
from server.telemetry import Telemetry

log = logging.getLogger("hedgerow.server")

OLDEST = 60.0
"""Seconds beyond which a time stamp is of another request on the same connection."""
GONE = 499
"""The status in metrics and log for a caller who went away before the answer (nginx's convention)."""


class Edge:
    """
    Args:
        clock: the loop's, to the microsecond.
    """

    def __init__(self, telemetry: Telemetry, access_log: AccessLog, clock: Callable[[], float]) -> None:
        self._telemetry = telemetry
        self._access_log = access_log
        self.clock = clock

    def problem(self, error: Exception, exchange: Exchange) -> Problem:
        """The problem that a handler's *error* comes to; one that nobody meant is a bug, and is logged."""
        if isinstance(error, Problem):
            problem = error
        elif isinstance(error, web.HTTPException):
            problem = from_http(error)
        elif isinstance(error, BAD_BODY):
            problem = BROKEN_BODY
        else:
            told = {"requestId": exchange.id, "route": exchange.route}
            log.error("a bug: the request %s failed", exchange.id, exc_info=error, extra=told)
            problem = Problem(500, "internal", "An unexpected error occurred.")
        exchange.reason = problem.code
        return problem

    def left(self, exchange: Exchange, method: str, path: str, status: int) -> None:
        """The request has been answered with *status*, or its caller is `GONE`."""
        if status == GONE:
            exchange.reason = "caller_gone"
        seconds = self.clock() - exchange.arrived
        self._telemetry.response(exchange.route, status, exchange.reason, seconds)
        self._access_log(exchange, method, path, status, seconds)


def middleware(edge: Edge, lifecycle: Lifecycle) -> Middleware:
    """The middleware around every handler."""

    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        exchange = Exchange(request.headers.get("X-Request-Id"), arrival(request, edge.clock()))
        request[EXCHANGE] = exchange
        path, status = request.rel_url.raw_path, GONE
        try:
            response = preflight() if is_preflight(request) else await handler(request)
            status = response.status
        except asyncio.CancelledError:
            raise
        except Exception as error:
            response = respond(edge.problem(error, exchange), exchange.id, path)
            status = response.status
        finally:
            edge.left(exchange, request.method, path, status)
        # What came in one packet with a wish to upgrade, which nobody grants, is lost, and has to come again.
        if lifecycle.draining or "Upgrade" in request.headers:
            response.force_close()
        return response

    return around


def arrival(request: web.Request, now: float) -> float:
    """When the last bytes of this request were read, if its connection is one of ours and kept the time."""
    protocol = request.protocol
    if isinstance(protocol, EdgeProtocol) and now - protocol.arrived < OLDEST:
        return protocol.arrived
    return now


def decorate_all(app: web.Application, decorator: Decorator) -> None:
    """Put the common headers on every response of *app*, streams included."""

    async def decorate(request: web.Request, response: web.StreamResponse) -> None:
        exchange = request.get(EXCHANGE) or Exchange(request.headers.get("X-Request-Id"), 0.0)
        decorator(response, exchange.id, request.headers.get("Origin"))

    app.on_response_prepare.append(decorate)
