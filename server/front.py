"""One connection from a caller, as it is served: who is refused at the door, who is answered directly, and
who goes on to aiohttp.

The first two happen on a request's bytes, and only where no other request can be concerned: the connection is
idle, aiohttp's parser holds no half of anything, and the bytes are one plain GET. Then aiohttp never hears of
it, and the connection stays good.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from server.arrival import TICK
from server.direct import Direct
from server.errors import respond
from server.exchange import Exchange
from server.gate import Gate
from server.handlers import FanOutHandler
from server.head import Head, read_head
from server.headers import Decorator
from server.lifecycle import Lifecycle
from server.protocol import EdgeProtocol
from server.shedding import Shedding, overloaded
from server.telemetry import Telemetry
from strategies import Verdict
from upstream.admission import Refusal

PRIVATE = (
    *("_request_in_progress", "_messages", "_upgraded", "_paused", "_close", "_force_close"),
    *("_next_keepalive_close_time", "_keepalive_timeout", "_handle_request", "_process_keepalive"),
    *("_handler_waiter", "_waiter", "_request_handler"),
)
"""What is used here of aiohttp's connection handler and promised nowhere; a test watches that it is there."""
END = b"\r\n\r\n"
SPARE = 0.05
"""Seconds that a refusal must at least have left to be in time."""
MOST_HELD = 64 * 1024
"""Bytes taken of a caller who sends the next requests before the answer to the first."""


class FrontProtocol(EdgeProtocol):
    """One connection. Without *shedding* everybody is taken."""

    __slots__ = (
        "_admitted",
        "_answerer",
        "_answering",
        "_data",
        "_direct",
        "_handed",
        "_head",
        "_held",
        "_holding",
        "_lifecycle",
        "_next",
        "_shedding",
        "_whole",
        "back_at",
    )

    def __init__(
        self,
        *args: Any,
        direct: Direct,
        shedding: Shedding | None,
        lifecycle: Lifecycle,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._direct = direct
        self._shedding = shedding
        self._lifecycle = lifecycle
        self._head: Head | None = None  # of the request that stands at the gate, or has just gone through
        self._data = b""  # its bytes
        self._admitted = False  # whether the gate counts it
        self.back_at = 0.0
        self._whole = True  # the parser is between two requests
        self._handed = 0  # requests that aiohttp has and has not answered
        self._answering = False  # a request directly
        self._answerer: asyncio.Task[None] | None = None
        self._next: asyncio.Future[tuple[FanOutHandler, Head]] | None = None  # what it waits for
        self._held: list[bytes] = []  # what came after it, in packets: a bad one must not spoil the others
        self._holding = 0  # bytes of that

    def data_received(self, data: bytes) -> None:
        """Answer what came, hand it to aiohttp, or let it wait at the gate."""
        if self._answering or self._held:
            self._hold(data)
            return
        head = read_head(data) if self._whole and self._is_idle() else None
        if head is None:
            if not self._handed:  # what comes after a request would make that request look younger
                self.arrived = time.monotonic() - self._arrival.age()
            self._parse(data)
            return
        now, shedding = time.monotonic(), self._shedding
        self._head, self._data = head, data
        self.arrived = now
        if shedding is None or not shedding.covers(head.path):
            self.arrived -= self._arrival.age()
            self._go(head)
        else:
            self._request_in_progress = self._answering = True
            shedding.gate.enter(self, now)

    def _is_idle(self) -> bool:
        """Whether a request that comes now is the only one, and will not be the last."""
        closing = self._close or self._force_close or self._lifecycle.draining
        return not (self._handed or self._paused or closing)

    def _parse(self, data: bytes) -> None:
        """Hand *data* to aiohttp; note what it has under way, and whether it waits for more."""
        messages, before = self._messages, len(self._messages)
        super()._parse(data)
        found = len(messages) - before
        self._handed += found
        if data:
            single = found == 1 and data.endswith(END) and data.find(END) == len(data) - len(END)
            self._whole = single and messages[-1][1].is_eof() and not self._upgraded

    # A `server.gate.Guest`.

    @property
    def gone(self) -> bool:
        """Whether the caller of the request at the gate has left."""
        return self.transport is None

    def can_wait(self, now: float, seconds: float) -> bool:
        """Whether the request at the gate has *seconds*, and its caller was told to come later."""
        shedding, head = self._shedding, self._head
        assert shedding is not None and head is not None  # noqa: S101, PT018 - they stand at the gate
        return self.back_at > now and shedding.timeout(head.query) > seconds + SPARE

    def hopeless(self, now: float, need: float) -> bool:
        """Whether the request at the gate has waited until no answer can be in time."""
        shedding, head = self._shedding, self._head
        assert shedding is not None and head is not None  # noqa: S101, PT018 - they stand at the gate
        waited = max(now - self.arrived, self._arrival.age())  # the kernel's word is on the latest bytes
        self.arrived = now - waited
        return waited > TICK and waited + need > shedding.timeout(head.query)

    def begin(self) -> None:
        """The request at the gate is taken."""
        assert self._head is not None  # noqa: S101 - it is what stands at the gate
        self._admitted = True
        self._go(self._head)

    def refuse(self, refusal: Refusal) -> None:
        """The request at the gate is not."""
        shedding, head = self._shedding, self._head
        assert shedding is not None and head is not None  # noqa: S101, PT018
        last = self._lifecycle.draining
        self._write(shedding.answer(head, refusal, last))
        self.back_at = time.monotonic() + refusal.retry_after
        shedding.count(refusal.reason)
        self._end(last)
        if self._held:
            self._unhold()

    # The direct way.

    def _go(self, head: Head) -> None:
        """Answer this request, or let aiohttp do it."""
        handler = self._direct.handler(head)
        if handler is None:
            self._answering = False  # it goes on being in progress, in aiohttp's hands
            self._parse(self._data)
            if self._held:
                self._unhold()
            return
        self._request_in_progress = self._answering = True  # the first for aiohttp, to whom it looks idle
        if self._next is not None:
            self._next.set_result((handler, head))
            self._next = None
        else:
            self._answerer = self._loop.create_task(self._answer(handler, head))

    async def _answer(self, handler: FanOutHandler, head: Head) -> None:
        """Answer one request after the other: to wait for the next costs 5 µs less than a task for each."""
        while True:
            last = True
            try:
                answer, last = await self._direct.answer(handler, head, self.arrived)
                self._write(answer)
            finally:
                self._end(last)
            coming = self._next = self._loop.create_future()
            if self._held:
                self._loop.call_soon(self._unhold)
            handler, head = await coming

    def _end(self, last: bool) -> None:
        """The request has been answered, or its caller is gone."""
        self._request_in_progress = self._answering = False
        if self._handler_waiter is not None:  # aiohttp's own end waits for this request
            self._handler_waiter.set_result(None)
        self._give_back()
        if last:
            self.force_close()

    def _unhold(self) -> None:
        """It is the turn of what came too early."""
        held, holding = self._held, self._holding
        self._held, self._holding = [], 0
        if self.transport is not None and holding > MOST_HELD:
            self.transport.resume_reading()
        for data in held:
            self.data_received(data)

    def _hold(self, data: bytes) -> None:
        """Keep what came before its turn, within bounds."""
        self._held.append(data)
        self._holding += len(data)
        if self._holding > MOST_HELD and self.transport is not None:
            self.transport.pause_reading()

    def _write(self, answer: bytes) -> None:
        if self.transport is not None:
            self.transport.write(answer)
        # As after any answer: or a connection that aiohttp hears nothing of would be closed for idleness.
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def _process_keepalive(self) -> None:
        """Close the connection if it is idle, which aiohttp thinks of one that is answered directly."""
        if self._answering:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    # aiohttp's way.

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        """What aiohttp does with a request; one that was not asked at the door is asked here."""
        shedding = self._shedding
        # A preflight is too cheap to be shed.
        at_gate = not self._admitted and request.method != "OPTIONS"
        try:
            if at_gate and shedding is not None and shedding.covers(request.path):
                self._request_in_progress = True  # aiohttp says so once it has begun
                due = self.arrived + shedding.timeout(request.rel_url.raw_query_string)
                refusal = await _Visitor(self, due).enter(shedding.gate)
                if refusal is None:
                    self._admitted = True
                else:
                    request_handler = self._refusing(shedding, refusal)
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            self._handed = len(self._messages)  # it answers one at a time
            self._give_back()

    def _refusing(
        self, shedding: Shedding, refusal: Refusal
    ) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        """A handler that refuses."""

        async def refuse(request: web.BaseRequest) -> web.StreamResponse:
            exchange = Exchange(request.headers.get("X-Request-Id"), 0.0)
            response = respond(overloaded(refusal.retry_after), exchange.id, request.rel_url.raw_path)
            self._decorator(response, exchange.id, request.headers.get("Origin"))
            shedding.count(refusal.reason)
            if self._lifecycle.draining:
                response.force_close()
            return response

        return refuse

    def connection_lost(self, exc: BaseException | None) -> None:
        """The caller has gone."""
        if self._answerer is not None:
            self._answerer.cancel()
        self._answerer = self._next = self._head = None  # each holds this connection, and it held them
        self._give_back()
        super().connection_lost(exc)

    def _give_back(self) -> None:
        if self._admitted and self._shedding is not None:
            self._admitted = False
            self._shedding.gate.settle(Verdict.IGNORED, 0.0)


class _Visitor:
    """A `server.gate.Guest` for a request that aiohttp has read."""

    def __init__(self, connection: FrontProtocol, due: float) -> None:
        self._connection = connection
        self._came = connection.arrived
        self._due = due
        self._told: asyncio.Future[Refusal | None] = asyncio.get_running_loop().create_future()

    @property
    def gone(self) -> bool:
        """Whether the caller has left."""
        return self._told.done() or self._connection.transport is None

    def begin(self) -> None:
        """The request is taken."""
        self._told.set_result(None)

    def refuse(self, refusal: Refusal) -> None:
        """It is not."""
        self._told.set_result(refusal)

    def can_wait(self, now: float, seconds: float) -> bool:
        """Whether it has *seconds*, and its caller was told to come later."""
        return self._connection.back_at > now and self._due > now + seconds + SPARE

    def hopeless(self, now: float, need: float) -> bool:
        """Whether it has waited until no answer can be in time."""
        return now - self._came > TICK and now + need > self._due

    async def enter(self, gate: Gate) -> Refusal | None:
        """Wait until it is told."""
        gate.enter(self, time.monotonic())
        try:
            return await self._told
        except asyncio.CancelledError:
            if self._told.done() and not self._told.cancelled() and self._told.result() is None:
                gate.settle(Verdict.IGNORED, 0.0)  # taken, and gone in the same turn
            raise


def front(
    server: web.Server,
    decorator: Decorator,
    telemetry: Telemetry,
    direct: Direct,
    shedding: Shedding | None,
    lifecycle: Lifecycle,
    **kwargs: Any,
) -> Callable[[], FrontProtocol]:
    """What ``loop.create_server`` calls for each connection."""
    return lambda: FrontProtocol(
        server, decorator, telemetry, direct=direct, shedding=shedding, lifecycle=lifecycle, **kwargs
    )
