"""aiohttp's connection handler, with two things changed: it notes when bytes arrived, and answers otherwise
to bytes that are no request.

Those aiohttp answers in plain text with its version, echoes some of it, and logs a traceback for each, which
lets any stranger flood the log. Here they get the same problem document as everybody else.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, cast

from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError

from server.arrival import Arrival
from server.errors import Problem, respond
from server.exchange import Exchange
from server.headers import Decorator
from server.objections import objection
from server.patience import Patience
from server.plain import LastWord
from server.telemetry import Telemetry

log = logging.getLogger("hedgerow.server")


SLOW_HEAD = Problem(408, "request_timeout", "The head of the request took too long to come.")
LAST = {"Connection": "close"}
SLOW_BODY = Problem(408, "request_timeout", "The body of the request took too long to come.", headers=LAST)
BROKEN_BODY = Problem(400, "bad_request", "The body is not what the request's head says.", headers=LAST)
WRAPPED_BODY = Problem(400, "bad_request", "The chunks of the body are nearly all wrapping.", headers=LAST)

BAD_BODY = (web.RequestPayloadError, HttpProcessingError)
"""What reading a body raises that is not what its head says; which one depends on aiohttp's parser."""

WRAPPING = 4
"""How many bytes may come for each byte of a body. A chunk of one byte is six."""
FREE = 16 * 1024
"""Bytes of a request of which nobody asks what they carry."""


class EdgeProtocol(web.RequestHandler):
    """
    One connection from a caller.

    Args:
        heads, bodies: how long the rest of a head, and of a body, is waited for. Without one, for ever.
    """

    __slots__ = (
        *("_arrival", "_bodies", "_body", "_decorator", "_half", "_heads", "_received", "_telemetry"),
        "arrived",
    )

    def __init__(
        self,
        manager: web.Server,
        decorator: Decorator,
        telemetry: Telemetry,
        *,
        heads: Patience | None = None,
        bodies: Patience | None = None,
        **kwargs: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(manager, loop=loop, **kwargs)
        self._decorator = decorator
        self._telemetry = telemetry
        self._heads = heads or Patience(math.inf, loop)
        self._bodies = bodies or Patience(math.inf, loop)
        self._half = False  # the parser has half a head
        self._body: StreamReader | None = None  # the one that is still coming
        self._received = 0  # bytes that came for it, as they were wrapped
        self.arrived = 0.0

    def data_received(self, data: bytes) -> None:
        """
        Note when the bytes arrived, before anything else: in a burst, the handler wakes tens of milliseconds
        later, and the bytes themselves may have waited in the kernel.

        On a connection with a request under way the stamp is left alone: what comes is pipelined, and its
        time would be too early for the request that is waiting.
        """
        if not self._request_in_progress:
            self.arrived = time.monotonic() - self._arrival.age()
        self._parse(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A caller has connected, and has its first head yet to send."""
        self._arrival = Arrival(transport)
        super().connection_made(transport)
        self._heads.begin(self._head_overdue)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The caller has gone."""
        self._heads.end(self._head_overdue)
        self._bodies.end(self._body_overdue)
        self._body = None
        super().connection_lost(exc)

    def _parse(self, data: bytes) -> None:
        """Give *data* to aiohttp, and see whether it was whole. What was not has a time to become so."""
        super().data_received(data)
        if self._body is not None and self._body_goes_on(self._body, len(data)):
            return
        messages, waiter = self._messages, self._waiter
        if messages:
            self._half = False
            body = messages[-1][1]
            if body is not EMPTY_PAYLOAD and not body.is_eof():
                self._body = body
                self._received = len(data) if len(messages) == 1 else 0
                self._bodies.begin(self._body_overdue)
                self._body_goes_on(body, 0)
        elif data and waiter is not None and not waiter.done() and not self._half:
            self._half = True
            self._heads.begin(self._head_overdue)

    def _body_goes_on(self, body: StreamReader, size: int) -> bool:
        """After *size* more bytes: whether there is more of *body* to wait for. A bad one is given up."""
        self._received += size
        if body.is_eof():
            self._body = None
            self._bodies.end(self._body_overdue)
            return False
        if body.exception() is not None or (self._messages and self._messages[-1][1] is EMPTY_PAYLOAD):
            self._give_up(BROKEN_BODY)  # nothing but an error can follow a body that has no end
        elif self._received > FREE + WRAPPING * body.total_bytes:
            self._give_up(WRAPPED_BODY)
        return True

    def _give_up(self, problem: Problem) -> None:
        """Whoever reads the body gets *problem*; nothing more is read from this connection."""
        body, self._body = self._body, None
        self._bodies.end(self._body_overdue)
        if body is not None and body.exception() is None:
            body.set_exception(Problem(problem.status, problem.code, problem.detail, headers=LAST))
        self.close()

    def _body_overdue(self) -> None:
        self._give_up(SLOW_BODY)

    def _head_overdue(self) -> None:
        """Close, if there is still no head. Who has sent a part of one is told why; silence gets silence."""
        waiter, transport = self._waiter, self.transport
        if transport is None or waiter is None or waiter.done() or not (self._half or not self.arrived):
            return
        if self._half:
            transport.write(LastWord(self._told(SLOW_HEAD, None)).bytes)
        self.force_close()

    def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """What aiohttp does with a request, unless something is to be said against it beforehand."""
        if request_handler is self._request_handler:  # else it is no request, or is refused as it is
            problem = objection(request)
            if problem is not None:
                request_handler = self._objecting(problem)
        return super()._handle_request(request, start_time, request_handler)

    def _objecting(self, problem: Problem) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """A handler that says *problem*, as its last word."""

        async def object_to(request: web.BaseRequest) -> web.StreamResponse:
            return cast(web.StreamResponse, LastWord(self._told(problem, request)))

        return object_to

    def _told(self, problem: Problem, request: web.BaseRequest | None) -> web.Response:
        """The response that says *problem*, of a *request* that no route has seen; None if it was none."""
        headers = request.headers if request is not None else {}
        self._telemetry.response("unparsed", problem.status, problem.code, 0.0)
        exchange = Exchange(headers.get("X-Request-Id"), 0.0)
        response = respond(problem, exchange.id, "")
        self._decorator(response, exchange.id, headers.get("Origin"))
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        """A line and a traceback for a bug; not for the rest of a bad body, whose caller was told."""
        if not isinstance(kwargs.get("exc_info"), (Problem, *BAD_BODY)):
            super().log_exception(*args, **kwargs)

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
        response = self._told(problem, None)
        response.force_close()
        return response
