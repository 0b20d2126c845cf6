"""What every request passes on its way in and out: an id, an arrival time, one form for errors, one log line.

It is one middleware, not five: each one on the way costs every request, and their order would be a riddle.
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
from server.protocol import EdgeProtocol
from server.telemetry import Telemetry

log = logging.getLogger("hedgerow.server")

OLDEST = 60.0
"""Seconds beyond which a time stamp is of another request on the same connection."""
GONE = 499
"""The status in metrics and log for a caller who went away before the answer (nginx's convention)."""


def edge(
    lifecycle: Lifecycle, telemetry: Telemetry, access_log: AccessLog, clock: Callable[[], float]
) -> Middleware:
    """The middleware around every handler; *clock* is the loop's, to the microsecond."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        exchange = Exchange(request.headers.get("X-Request-Id"), _arrival(request, clock()))
        request[EXCHANGE] = exchange
        status = GONE
        try:
            response = preflight() if is_preflight(request) else await _answer(request, handler, exchange)
            status = response.status
            if lifecycle.draining:
                response.force_close()
            return response
        except asyncio.CancelledError:
            exchange.reason = "caller_gone"
            raise
        finally:
            seconds = clock() - exchange.arrived
            telemetry.response(exchange.route, status, exchange.reason, seconds)
            access_log(request, exchange, status, seconds)

    return middleware


def _arrival(request: web.Request, now: float) -> float:
    """When the last bytes of this request were read, if its connection is one of ours and kept the time."""
    protocol = request.protocol
    if isinstance(protocol, EdgeProtocol) and now - protocol.arrived < OLDEST:
        return protocol.arrived
    return now


async def _answer(request: web.Request, handler: Handler, exchange: Exchange) -> web.StreamResponse:
    """The handler's response, or the problem document for what it raised."""
    try:
        return await handler(request)
    except Problem as raised:
        problem = raised
    except web.HTTPException as raised:
        problem = from_http(raised)
    except Exception:
        log.exception("a bug: the request %s failed", exchange.id)
        problem = Problem(500, "internal", "An unexpected error occurred.")
    exchange.reason = problem.code
    return respond(problem, exchange.id, request.rel_url.raw_path)


def decorate_all(app: web.Application, decorator: Decorator) -> None:
    """Put the common headers on every response of *app*, streams included."""

    async def decorate(request: web.Request, response: web.StreamResponse) -> None:
        exchange = request.get(EXCHANGE) or Exchange(request.headers.get("X-Request-Id"), 0.0)
        decorator(response, exchange.id, request.headers.get("Origin"))

    app.on_response_prepare.append(decorate)
