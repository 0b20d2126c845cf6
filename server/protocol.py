"""aiohttp's connection handler, with two things changed: how it answers bytes that are no request, and how it
answers a request that is one too many.

The former aiohttp answers in plain text with its version, echoes some of it, and logs a traceback for each,
which lets any stranger flood the log. Here they get the same problem document as everybody else. The latter
(`server.shedding`) is answered before aiohttp has seen it, where that is safe.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from server.arrival import age_reader
from server.errors import Problem, respond
from server.exchange import Exchange
from server.headers import Decorator
from server.shedding import Shedding, overloaded
from server.telemetry import Telemetry
from strategies import Verdict
from upstream.admission import Permit, Refusal

log = logging.getLogger("hedgerow.server")

END = b"\r\n\r\n"
PRIVATE = (
    *("_request_in_progress", "_waiter", "_messages", "_upgraded", "_paused", "_close", "_force_close"),
    *("_next_keepalive_close_time", "_keepalive_timeout", "_handle_request"),
)
"""What is used here of aiohttp's connection handler and promised nowhere; a test watches that it is there."""


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


class SheddingProtocol(EdgeProtocol):
    """
    One connection from a caller, on which requests may be refused.

    A request is refused on its bytes when no other can be concerned: the connection is idle, the parser holds
    no half of anything, and the bytes are one plain GET. Then the answer goes straight to the transport,
    aiohttp never hears of it, and the connection stays good. Every other request that may be shed is refused
    when aiohttp hands it over.
    """

    __slots__ = ("_permit", "_shedding", "_whole")

    def __init__(self, *args: Any, shedding: Shedding, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shedding = shedding
        self._permit: Permit | None = None  # of the request that is under way, or about to be
        self._whole = True  # the parser is between two requests

    def data_received(self, data: bytes) -> None:
        """Refuse what came, or take it and keep its place until it is answered."""
        waiter = self._waiter
        if waiter is None or waiter.done() or not data:  # not idle, or aiohttp wants its rest parsed
            self._whole = False
            super().data_received(data)
            return
        now = time.monotonic()
        shedding = self._shedding
        limiter = shedding.limiter
        # Where it will be refused anyhow, its age is a system call for nothing.
        age = self._age() if limiter.in_flight < limiter.limit else 0.0
        self.arrived = now - age
        single = data.find(END) == len(data) - len(END)
        if single and self._whole and data.startswith(shedding.heads) and not shedding.draining():
            permit = shedding.admit(data, now, age)
            if not isinstance(permit, Refusal):
                self._permit = permit
            elif self._refuse(data, permit):
                return
        web.RequestHandler.data_received(self, data)
        if not waiter.done():  # it takes more bytes to make a request
            self._whole = False
            self._give_back()
        else:
            messages = self._messages
            self._whole = single and len(messages) == 1 and messages[0][1].is_eof() and not self._upgraded

    def _refuse(self, head: bytes, refusal: Refusal) -> bool:
        """Answer the request with these bytes; False if that cannot be done here."""
        transport = self.transport
        if transport is None or self._close or self._force_close or self._paused:
            return False
        answer = self._shedding.answer(head, refusal)
        if answer is None:
            return False
        transport.write(answer)
        self._shedding.count[refusal.reason]()
        # As after any answer: or a connection with nothing but refusals would be closed for idleness.
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        return True

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        """What aiohttp does with a request; one that was not asked at the door is asked here."""
        if self._permit is None and self._shedding.covers(request):
            permit = self._shedding.limiter.admit(time.monotonic())
            if isinstance(permit, Refusal):
                request_handler = self._refusing(permit)
            else:
                self._permit = permit
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            self._give_back()

    def _refusing(self, refusal: Refusal) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """A handler that refuses."""

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            exchange = Exchange(request.headers.get("X-Request-Id"), 0.0)
            response = respond(overloaded(refusal.retry_after), exchange.id, request.rel_url.raw_path)
            self._decorator(response, exchange.id, request.headers.get("Origin"))
            self._shedding.count[refusal.reason]()
            if self._shedding.draining():
                response.force_close()
            return response

        return refuse

    def connection_lost(self, exc: BaseException | None) -> None:
        """The caller has gone."""
        self._give_back()
        super().connection_lost(exc)

    def _give_back(self) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            permit.settle(Verdict.IGNORED, 0.0)


def protocol_factory(
    server: web.Server, decorator: Decorator, telemetry: Telemetry, shedding: Shedding | None, **kwargs: Any
) -> Callable[[], EdgeProtocol]:
    """What ``loop.create_server`` calls for each connection. Without *shedding* all are taken."""
    if shedding is None:
        return lambda: EdgeProtocol(server, decorator, telemetry, **kwargs)
    return lambda: SheddingProtocol(server, decorator, telemetry, shedding=shedding, **kwargs)
