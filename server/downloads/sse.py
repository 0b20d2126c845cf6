"""A job's events as server-sent events: one request, one stream of all that happens until the job has ended.

A stream may be cut at any point: its client asks again with the last id that it has, here or at another
server, and goes on after it. So an end is never a loss, and whoever costs too much is cut.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp_sse import EventSourceResponse

from server.downloads.feed import START, Feed, Follower, Resync, place
from server.downloads.jobs import ENDED, Event, Job
from server.errors import Problem, invalid
from strategies import value

log = logging.getLogger("hedgerow.downloads")

CONTENT_TYPE = "text/event-stream"
HEADERS = {
    "Cache-Control": "no-cache, no-transform",  # a proxy that compresses would also hold back
    "X-Accel-Buffering": "no",
}
HEARTBEAT = 15.0
"""Seconds between two comments that keep proxies from taking the stream for dead; theirs are 30 and more."""
STALL = 30.0
"""Seconds that a client may take nothing of what was sent."""
RETRY = 2.0
"""Seconds after which a client asks again, up to half more or less: thousands are cut at the same moment."""
MOST_UNSENT = 16 * 1024
"""Bytes that wait in this process for a client to take them; one event more, to be exact."""
MOST_SENT = 32 * 1024
"""Bytes that wait in the kernel, which doubles the number; left alone it goes up to megabytes."""


@value
class Manner:
    """How streams behave, in seconds: see `HEARTBEAT`, `STALL` and `RETRY`."""

    heartbeat: float = HEARTBEAT
    stall: float = STALL
    retry: float = RETRY


class Streams:
    """
    The streams that are open in this process.

    Args:
        most_of_client, most: how many there may be, of one client and in all.
    """

    def __init__(self, most_of_client: int, most: int) -> None:
        self._most_of_client = most_of_client
        self._most = most
        self._of_client: Counter[str] = Counter()
        self._open: set[Follower] = set()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def opened(self, client: str, follower: Follower) -> Iterator[None]:
        """Inside it *client* has one more. Raises a `Problem` with 429 or 503."""
        self._refuse_too_many(client)
        self._of_client[client] += 1
        self._open.add(follower)
        if self._draining:
            follower.stop()
        try:
            yield
        finally:
            self._open.discard(follower)
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    def drain(self) -> None:
        """
        End all streams, and those that are still to come as soon as they have begun.

        No error would do: it makes a browser's ``EventSource`` give up. After an end it asks again.
        """
        self._draining = True
        for one in self._open:
            one.stop()

    def _refuse_too_many(self, client: str) -> None:
        wait = {"Retry-After": "5"}
        if self._of_client[client] >= self._most_of_client:
            detail = f"One client may have {self._most_of_client} event streams. The status can be asked for."
            raise Problem(429, "too_many_streams", detail, headers=wait, limit=self._most_of_client)
        if len(self._open) >= self._most:
            detail = f"All {self._most} event streams of this server are taken. The status can be asked for."
            raise Problem(503, "too_many_streams", detail, headers=wait, limit=self._most)


def last_event_id(request: web.Request) -> str:
    """
    The event after which the client wants to go on; `START` if it has none.

    A browser sends it as a header, and only when it has had an event. Other clients, which cannot set a
    header, put it into the query, where it is still that of the beginning when a browser reconnects.

    Raises:
        Problem: 400; it is no event's id.
    """
    for name, given in (
        ("Last-Event-ID", request.headers.getall("Last-Event-ID", [])),
        ("lastEventId", request.query.getall("lastEventId", [])),
    ):
        if any(given):
            try:
                (text,) = given
                return "{}-{}".format(*place(text))
            except ValueError:
                raise invalid({name: ["Must be the id of an event of this job, once."]}) from None
    return START


async def stream(
    request: web.Request,
    job: Job,
    feed: Feed,
    streams: Streams,
    client: str,
    describe: Callable[[Job], bytes],
    rng: Callable[[], float],
    manner: Manner = Manner(),  # noqa: B008 - it is immutable
) -> web.StreamResponse:
    """
    Answer *request*, of *client*, with what happens to *job*, until it has ended.

    The answer is 204 if there is nothing more to tell, which also ends a browser's reconnecting. The server
    must cancel its handlers when a client goes (``handler_cancellation``).

    Args:
        job: as it stands.
        describe: the job as a JSON document, for a client whose next events are no longer known. It gets an
            event ``resync`` with that.

    Raises:
        Problem: 400 for a bad ``Last-Event-ID``; 429 or 503 if there are too many streams.
    """
    after = last_event_id(request)
    if job.state in ENDED and after == job.last_event:
        return web.Response(status=204)
    if request.method == "HEAD":
        return web.StreamResponse(headers={"Content-Type": CONTENT_TYPE, **HEADERS})
    with feed.follow(job.id, after) as follower, streams.opened(client, follower):
        response = _Stream(manner)
        try:
            await response.begin(request)
            async with response:
                await response.write(b"retry: %d\r\n\r\n" % (manner.retry * (0.5 + rng()) * 1000))
                while items := await follower.next():
                    for item in items:
                        await response.tell(_as_event(item, describe))
        except OSError as error:  # the client has gone, or took nothing for too long
            log.debug("an event stream was cut: %s", error or type(error).__name__)
            if request.transport is not None:
                request.transport.abort()
    return response


class _Stream(EventSourceResponse):
    """The library's response, for clients of whom some are slow, and some do not read at all."""

    _transport: asyncio.Transport
    _writer: AbstractStreamWriter

    def __init__(self, manner: Manner) -> None:
        super().__init__(ping_interval=manner.heartbeat, send_timeout=manner.stall)
        self._stall = manner.stall
        del self.headers["Connection"]  # "keep-alive", also for those who did not ask for it
        self.headers.update(HEADERS)
        self.force_close()  # the connection is not as it was

    async def begin(self, request: web.Request) -> None:
        """Send the head. Raises OSError if the client has gone."""
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        _bound(transport)
        writer = await self.prepare(request)
        assert writer is not None  # noqa: S101 - it was not prepared before
        self._transport, self._writer = transport, writer

    async def tell(self, event: Event) -> None:
        """Send *event*, and wait until little is left to be taken. Raises OSError if that stalls."""
        await self.send(event.data.decode(), event.id, event.kind)
        if self._transport.get_write_buffer_size() > MOST_UNSENT:
            async with asyncio.timeout(self._stall):
                await self._writer.drain()


def _as_event(item: Event | Resync, describe: Callable[[Job], bytes]) -> Event:
    return Event(item.id, "resync", describe(item.job)) if isinstance(item, Resync) else item


def _bound(transport: asyncio.Transport) -> None:
    """What is not taken is to cost little, here and in the kernel."""
    transport.set_write_buffer_limits(high=MOST_UNSENT)
    sock = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_SENT)
