"""The short way to an upstream for a plain GET: a lean protocol on connections of the shared session.

It knows the wire and nothing else: names, TLS and limits stay aiohttp's, whose connector opens each
connection and goes on counting it (`upstream.lease`). What it saves is aiohttp's request and response
objects, a task and a dozen awaits per call. The session path is the reference: every test of the transport
runs on both.

One lane is one connection. It is idle, or busy with one call, or draining: the call was given up, and since
HTTP/1.1 cannot cancel, the lane waits a while for the rest so that the connection is not lost.
"""

from __future__ import annotations

import asyncio
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Protocol

import httptools
from multidict import CIMultiDict

from strategies import Attempt, Failed, Fetch, Outcome, Pending
from upstream.call import MAX_INTERIM, Answer, Call
from upstream.faults import FAULTS, detail_of, reason_of
from upstream.lease import Lease, Leases
from upstream.spec import UpstreamSpec
from upstream.transport import judge

MAX_HEADERS = 128
MAX_HEADER_BYTES = 8190
"""A field's name and value together; aiohttp's bounds, for the same outcome on both paths."""
MAX_HEAD_BYTES = 64 * 1024
DRAIN_SECONDS = 1.0
"""How long a lane waits for a call that was given up. The rest of a call to the modelled upstream (100 to
600 ms) fits; a hanging one costs its connection, as it would have anyway."""
MOST_DRAINING = 2048
"""Lanes of one upstream that may wait like that at once; beyond it connections are closed."""
MAX_DRAIN_BYTES = 64 * 1024
OPENS_PER_TURN = 6
"""Connections begun in one turn of the loop, at most. Each takes a third of a millisecond; 400 at once
(two hundred callers whose hedges fall due together) would hold back every answer for a tenth of a second."""
OPENS_PER_SECOND = 1000
"""And at least: in a crowd a turn takes 30 ms, and then six of them would be 200 a second."""
IDLE_SECONDS = 15.0
"""How long an idle lane is kept; the session's own keep-alive."""
SWEEP_SECONDS = 1.0
SWEEP_PORTION = 16
"""Idle lanes closed in one go, at most: closing takes 50 µs, and four hundred at once would stop the loop."""


class LaneObserver(Protocol):
    """Whoever counts connections."""

    def connection(self, upstream: str, state: str) -> None:
        """A call to *upstream* found a connection to be ``reused``, or one was ``opened`` for it; a call
        that was given up had its connection ``drained`` or ``abandoned``."""


def shortest(lane: FastLane, reference: Fetch) -> Fetch:
    """The *lane* for a plain GET, the *reference* path for everything else."""

    def fetch(attempt: Attempt) -> Awaitable[Outcome]:
        call = attempt.target.payload
        if call is None or (
            isinstance(call, Call) and call.method == "GET" and call.body is None and not call.headers
        ):
            return lane(attempt)
        return reference(attempt)

    return fetch


class RawHeaders(Mapping[str, str]):
    """The headers of an answer, decoded when somebody looks: hardly anybody does."""

    __slots__ = ("_decoded", "_raw")

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw
        self._decoded: CIMultiDict[str] | None = None

    def _look(self) -> CIMultiDict[str]:
        if self._decoded is None:
            self._decoded = CIMultiDict(
                (name.decode("latin-1"), text.decode("utf-8", "surrogateescape")) for name, text in self._raw
            )
        return self._decoded

    def __getitem__(self, name: str) -> str:
        return self._look()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._look())

    def __len__(self) -> int:
        return len(self._look())


class _Reply(Pending):
    """The outcome to come. Cancelling it tells the lane, without a listener on every call."""

    lane: Lane | None = None

    def cancel(self, msg: object = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self.lane is not None:
            self.lane.give_up()
        return cancelled


class FastLane:
    """
    A `strategies.Fetch` for plain GETs to one upstream.

    Args:
        leases: opens connections through the shared session's connector.
        spec: where the upstream is, and what a valid payload is.
        clock: the loop's, exact.
    """

    def __init__(
        self, leases: Leases, spec: UpstreamSpec, observer: LaneObserver, clock: Callable[[], float]
    ) -> None:
        self.spec = spec
        self.clock = clock
        self.loop = asyncio.get_running_loop()
        self._leases = leases
        self._observer = observer
        self._plain = leases.request_for(Call())
        self._idle: deque[Lane] = deque()
        self._lanes: set[Lane] = set()
        self._draining = 0
        self._begun = 0
        self._turned = 0.0
        self._waiting: deque[asyncio.Future[Lane | None]] = deque()
        self._sweeper: asyncio.TimerHandle | None = None

    def __call__(self, attempt: Attempt) -> Awaitable[Outcome]:
        """Send the attempt's GET on an idle connection, or on a new one."""
        call = attempt.target.payload
        request = self._plain if call is None else self._leases.request_for(call)  # type: ignore[arg-type]
        while self._idle:
            lane = self._idle.pop()  # the latest: it is the least likely to have been closed meanwhile
            if lane.usable:
                self._observer.connection(self.spec.name, "reused")
                return lane.send(attempt, request)
        return self._open(attempt, request)

    async def _open(self, attempt: Attempt, request: bytes) -> Outcome:
        started = self.clock()
        freed = await self._turn()
        if freed is not None and freed.usable:
            self._observer.connection(self.spec.name, "reused")
            return await freed.send(attempt, request, started)
        try:
            lease = await self._leases.open()
        except FAULTS as error:
            return Failed(attempt, started, self.clock(), reason_of(error), detail_of(error))
        lane = Lane(self, lease)
        self._lanes.add(lane)
        self._observer.connection(self.spec.name, "opened")
        return await lane.send(attempt, request, started)

    async def _turn(self) -> Lane | None:
        """Wait until a turn of the loop has room for one more connection to begin, or a lane is free."""
        if not self._begun:
            self._turned = self.clock()
            self.loop.call_soon(self._next_turn)
        self._begun += 1
        if self._begun <= OPENS_PER_TURN:
            return None
        waiter: asyncio.Future[Lane | None] = self.loop.create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and (lane := waiter.result()) is not None:
                self.free(lane)
            raise

    def _next_turn(self) -> None:
        """Let some of those go on that had to wait, and come again if there are more."""
        now = self.clock()
        room = max(OPENS_PER_TURN, int((now - self._turned) * OPENS_PER_SECOND))
        self._turned = now
        self._begun = 0
        while self._begun < room and (waiter := self._next_waiter()) is not None:
            waiter.set_result(None)
            self._begun += 1
        if self._begun:
            self.loop.call_soon(self._next_turn)

    def _next_waiter(self) -> asyncio.Future[Lane | None] | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # not given up meanwhile
                return waiter
        return None

    def free(self, lane: Lane) -> None:
        """*lane* has nothing more to do."""
        if self._leases.wanted():
            lane.close()
            return
        if (waiter := self._next_waiter()) is not None:
            waiter.set_result(lane)
            return
        self._idle.append(lane)
        lane.idle_since = self.loop.time()
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(SWEEP_SECONDS, self._sweep)

    def gone(self, lane: Lane) -> None:
        """*lane* has lost its connection."""
        self._lanes.discard(lane)

    def may_drain(self) -> bool:
        """Whether one more lane may wait for a call that was given up."""
        room = self._draining < MOST_DRAINING
        self._observer.connection(self.spec.name, "drained" if room else "abandoned")
        self._draining += room
        return room

    def drained(self) -> None:
        """A lane is through with waiting."""
        self._draining -= 1

    @property
    def at_rest(self) -> int:
        """Connections that are open though no call waits for them: idle or draining."""
        return len(self._idle) + self._draining

    def close(self) -> None:
        """Close every connection; calls under way fail."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for lane in list(self._lanes):
            lane.close()

    def _sweep(self) -> None:
        """Close lanes that have been idle for long, the oldest first, a portion at a time."""
        before = self.loop.time() - IDLE_SECONDS
        for _ in range(SWEEP_PORTION):
            if not self._idle or (self._idle[0].usable and self._idle[0].idle_since > before):
                break
            self._idle.popleft().close()
        overdue = self._idle and self._idle[0].idle_since <= before
        self._sweeper = (
            self.loop.call_later(SWEEP_SECONDS / 100 if overdue else SWEEP_SECONDS, self._sweep)
            if self._idle
            else None
        )


class Lane(asyncio.Protocol):
    """One connection, one call at a time."""

    __slots__ = (
        "_answered",
        "_attempt",
        "_body",
        "_coded",
        "_drain_timer",
        "_error",
        "_headers",
        "_interim",
        "_lease",
        "_limit",
        "_parser",
        "_promised",
        "_reply",
        "_road",
        "_size",
        "_started",
        "_status",
        "_surplus",
        "_transport",
        "_until_close",
        "idle_since",
        "usable",
    )

    _status: int
    _answered: bool
    _surplus: bool
    _until_close: bool
    _coded: bool
    _error: tuple[str, str] | None

    def __init__(self, road: FastLane, lease: Lease) -> None:
        self._road = road
        self._lease = lease
        self._limit = road.spec.max_body
        self._reply: _Reply | None = None
        self._attempt: Attempt | None = None
        self._started = 0.0
        self._drain_timer: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._interim = 0
        self._reset()
        self.idle_since = 0.0
        self.usable = True
        self._transport = lease.adopt(self)

    def send(self, attempt: Attempt, request: bytes, started: float | None = None) -> asyncio.Future[Outcome]:
        """Send *request*; the outcome comes in the future. It began at *started*, or now."""
        reply = self._reply = _Reply(loop=self._road.loop)
        reply.lane = self
        self._attempt = attempt
        self._started = self._road.clock() if started is None else started
        if self.usable:
            self._transport.write(request)
        else:
            self._fail("reset", "the upstream hung up before it was asked")
        return reply

    def give_up(self) -> None:
        """Nobody waits for the call any more: wait for the rest of the answer, if that is cheap."""
        self._reply = None
        self._attempt = None
        self._limit = min(self._limit, MAX_DRAIN_BYTES)
        if self._road.may_drain():
            self._drain_timer = self._road.loop.call_later(DRAIN_SECONDS, self.close)
        else:
            self.close()

    def close(self) -> None:
        """Close the connection. A call under way fails."""
        self.usable = False
        self._transport.abort()

    # What the transport tells.

    def data_received(self, data: bytes) -> None:
        if self._reply is None and self._drain_timer is None:
            self.close()  # nobody has asked: the next call would take these bytes for its answer
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse("protocol_error", "the upstream wants to switch protocols")
        except httptools.HttpParserCallbackError:
            if self._error is None:
                raise  # a bug of ours, inside a callback
        except httptools.HttpParserError as error:
            if self._answered:
                self._surplus = True
            else:
                self._refuse("protocol_error", str(error))
        if not self._status:  # the head is not complete: llhttp would gather a field without end
            self._size += len(data)
            if self._size > MAX_HEAD_BYTES:
                self._refuse("protocol_error", "Too many headers, or too large ones")
        if self._error is not None:
            self._fail(*self._error)
            self.close()
        elif self._answered:
            self._answer(reusable=not self._surplus)

    def eof_received(self) -> None:
        """The upstream has said all it will; the transport closes, and `connection_lost` comes."""

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        self._lease.give_back(error)
        self._road.gone(self)
        if self._reply is not None or self._drain_timer is not None:
            if self._until_close and error is None and self._error is None:
                self._answer(reusable=False)
            elif self._status:
                promised = f" of {self._promised} bytes" if self._promised else ""
                self._fail("reset", f"the connection ended before the answer{promised} did")
            else:
                self._fail("reset", "the upstream hung up before it had answered")
        del self._parser  # it holds this object, and this object held it

    # What the parser tells. Nothing here may raise: a refusal is noted, and acted on after the parser.

    def on_message_begin(self) -> None:
        if self._answered:
            self._surplus = True

    def on_status(self, reason: bytes) -> None:
        self._size += len(reason)
        if self._size > MAX_HEADER_BYTES:
            self._refuse("protocol_error", "the status line is too long")

    def on_header(self, name: bytes, text: bytes) -> None:
        if self._answered:
            return
        self._headers.append((name, text))

    def on_headers_complete(self) -> None:
        if self._answered:
            return
        self._status = self._parser.get_status_code()
        bounded = False
        large = len(self._headers) > MAX_HEADERS
        for name, text in self._headers:
            size = len(name)
            if size + len(text) > MAX_HEADER_BYTES:
                large = True
            if size == 14 and name.lower() == b"content-length":
                bounded = True
                self._promised = int(text[:18]) if text.isdigit() else 0
                if self._promised > self._limit:
                    self._refuse(
                        "too_large", f"the body of {self._promised} bytes is over the limit of {self._limit}"
                    )
            elif size == 17 and name.lower() == b"transfer-encoding":
                bounded = True
            elif size == 16 and name.lower() == b"content-encoding":
                self._coded = True
        if large:
            self._refuse("protocol_error", "Too many headers, or too large ones")
        self._until_close = not bounded
        self._size = 0

    def on_body(self, data: bytes) -> None:
        if self._answered:
            return
        self._body.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self._refuse("too_large", f"the body is over the limit of {self._limit} bytes")

    def on_message_complete(self) -> None:
        if self._answered:
            self._surplus = True
        elif 100 <= self._status < 200:
            self._reset()  # the real one follows
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self._refuse("protocol_error", "Too many interim answers")
        else:
            self._answered = True
            # Only now does the parser know; after this callback it has begun to forget.
            self._surplus = not self._parser.should_keep_alive()

    # What follows.

    def _reset(self) -> None:
        """Ready for an answer."""
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._size = 0
        self._promised = 0
        self._answered = False
        self._surplus = False
        self._until_close = False
        self._coded = False
        self._error = None

    def _refuse(self, reason: str, detail: str) -> None:
        if self._error is None:
            self._error = (reason, detail)

    def _answer(self, reusable: bool) -> None:
        """The answer is complete: hand it over, and make the lane free."""
        reply, attempt = self._reply, self._attempt
        status, headers, coded = self._status, self._headers, self._coded
        body = b"".join(self._body)
        self._end_call()
        if reply is not None and attempt is not None:
            now = self._road.clock()
            try:
                body = _decoded(headers, body, self._limit) if coded else body
            except _Undecodable as error:
                reusable = False
                reply.settle(Failed(attempt, self._started, now, error.reason, error.detail))
            else:
                answer = Answer(status, RawHeaders(headers), body)
                reply.settle(judge(self._road.spec, attempt, self._started, now, answer))
        if reusable and self.usable:
            self._road.free(self)
        else:
            self.close()

    def _fail(self, reason: str, detail: str) -> None:
        reply, attempt = self._reply, self._attempt
        self._end_call()
        if reply is not None and attempt is not None:
            reply.settle(Failed(attempt, self._started, self._road.clock(), reason, detail))

    def _end_call(self) -> None:
        if self._reply is not None:
            self._reply.lane = None  # what is over cannot be given up
            self._reply = None
        self._attempt = None
        if self._drain_timer is not None:
            self._drain_timer.cancel()
            self._drain_timer = None
            self._limit = self._road.spec.max_body
            self._road.drained()
        self._interim = 0
        self._reset()


class _Undecodable(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail


def _decoded(headers: list[tuple[bytes, bytes]], body: bytes, limit: int) -> bytes:
    """*body* without its content coding. We ask for none; an upstream may send one all the same."""
    for name, text in headers:
        if len(name) == 16 and name.lower() == b"content-encoding":
            coding = text.strip().lower()
            if coding in (b"", b"identity") or not body:
                continue
            if coding not in (b"gzip", b"x-gzip", b"deflate"):
                raise _Undecodable("protocol_error", "the body has a content coding that nobody asked for")
            body = _inflated(body, limit)
    return body


def _inflated(body: bytes, limit: int) -> bytes:
    """gzip or zlib data, at most *limit* bytes of it: a bomb is stopped, not unpacked."""
    inflater = zlib.decompressobj(47)
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise _Undecodable("protocol_error", "the gzip or deflate coding of the body is corrupt") from error
    if len(plain) > limit:
        raise _Undecodable("too_large", f"the body is over the limit of {limit} bytes")
    return plain
