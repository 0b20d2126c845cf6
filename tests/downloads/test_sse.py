"""A job's events over HTTP, as a browser's ``EventSource`` reads them, and as others fail to."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import aiohttp
import orjson
import pytest
import yarl
from aiohttp import web
from prometheus_client import CollectorRegistry

from server.access_log import AccessLog
from server.downloads import sse
from server.downloads.feed import Feed, Follower, open_feed
from server.downloads.jobs import Job
from server.downloads.sse import Manner, Streams, stream
from server.edge import Edge, decorate_all, middleware
from server.errors import Problem
from server.headers import Decorator
from server.lifecycle import Lifecycle
from server.telemetry import Telemetry
from tests.downloads.journal import Journal, new_job, open_journal
from tests.job_store.stores import WITHIN, Valkey, valkey
from tests.server.raw import until

USUAL, QUICK = Manner(), Manner(heartbeat=0.01)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A store that comes back with all that it acknowledged when a test kills it."""
    with valkey(tmp_path_factory.mktemp("sse"), appendfsync="always") as running:
        yield running


@pytest.fixture
async def journal(store: Valkey) -> AsyncIterator[Journal]:
    async with open_journal(store.url) as opened:
        yield opened


class Site:
    """A server that has the route and nothing else, and browsers of it."""

    def __init__(self, journal: Journal, feed: Feed, streams: Streams, manner: Manner) -> None:
        self.journal = journal
        self.feed = feed
        self.streams = streams
        self.manner = manner
        self.connections: list[asyncio.Transport] = []
        self.port = 0
        self.session: aiohttp.ClientSession

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The handler."""
        assert request.transport is not None
        self.connections.append(request.transport)
        job = await self.journal.view(request.match_info["job"])
        if job is None:
            raise web.HTTPNotFound
        client = request.query.get("client", "someone")
        return await stream(
            request, job, self.feed, self.streams, client, _document, random.Random(1).random, self.manner
        )

    def url(self, job: str, **query: str) -> str:
        """Where the job's events are."""
        return str(yarl.URL(f"http://127.0.0.1:{self.port}/{job}").with_query(query))

    @asynccontextmanager
    async def open(
        self, job: str, last: str | None = None, **query: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, whose events have yet to come."""
        headers = {} if last is None else {"Last-Event-ID": last}
        async with self.session.get(self.url(job, **query), headers=headers) as response:
            yield response

    async def read(self, job: str, last: str | None = None, **query: str) -> list[dict[str, str]]:
        """All events until the end of the answer."""
        async with asyncio.timeout(WITHIN), self.open(job, last, **query) as response:
            assert response.status == 200
            return events(await response.read())


def _document(job: Job) -> bytes:
    return orjson.dumps({"jobId": job.id, "status": job.state})


def events(body: bytes) -> list[dict[str, str]]:
    """What a browser makes of it: events that are whole and have data."""
    found = []
    *blocks, _ = body.decode().split("\r\n\r\n")
    for block in blocks:
        fields = [line.partition(": ")[::2] for line in block.split("\r\n") if not line.startswith(":")]
        if any(name == "data" for name, _ in fields):
            found.append(dict(fields))
    return found


async def take(response: aiohttp.ClientResponse, count: int) -> list[dict[str, str]]:
    """The next *count* events."""
    found: list[dict[str, str]] = []
    async with asyncio.timeout(WITHIN):
        while len(found) < count:
            found += events(await response.content.readuntil(b"\r\n\r\n"))
    return found


def ids(found: list[dict[str, str]]) -> list[str]:
    return [one["id"] for one in found]


@asynccontextmanager
async def site(store: Valkey, journal: Journal, manner: Manner = USUAL, **caps: int) -> AsyncIterator[Site]:
    """A site, with its own feed, as another process would have one."""
    edge = Edge(Telemetry(CollectorRegistry()), AccessLog("all"), time.monotonic)
    app = web.Application(middlewares=[middleware(edge, Lifecycle())])
    decorate_all(app, Decorator(("*",)))
    streams = Streams(caps.get("most_of_client", 1000), caps.get("most", 1000))
    async with open_feed(store.url, journal, random.Random(1).random) as feed:
        made = Site(journal, feed, streams, manner)
        app.router.add_get("/{job}", made.answer)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        try:
            sock = socket.create_server(("127.0.0.1", 0))
            await web.SockSite(runner, sock).start()
            made.port = sock.getsockname()[1]
            async with aiohttp.ClientSession() as made.session:
                yield made
        finally:
            await runner.cleanup()
    assert len(streams) == 0, "a stream was not given back"


async def test_a_stream_begins_with_the_first_event_and_ends_with_the_last(
    store: Valkey, journal: Journal
) -> None:
    job = new_job()
    made = [await journal.append(job, "queued")]
    async with site(store, journal) as here:
        reading = asyncio.create_task(here.read(job))
        await until(lambda: len(here.streams) == 1)
        made += await journal.append_many(job, 20)
        made.append(await journal.append(job, "completed"))
        found = await reading
    assert ids(found) == made
    assert [one["event"] for one in found] == ["queued", *["progress"] * 20, "completed"]
    assert all(orjson.loads(one["data"])["jobId"] == job for one in found)


async def test_the_head_keeps_proxies_from_holding_back_and_the_body_says_when_to_return(
    store: Valkey, journal: Journal
) -> None:
    job = new_job()
    await journal.append(job, "completed")
    async with site(store, journal) as here, here.open(job) as response:
        headers = response.headers
        body = await response.read()
    assert headers["Content-Type"] == "text/event-stream"
    assert headers["Cache-Control"] == "no-cache, no-transform"
    assert headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in headers
    assert "Content-Encoding" not in headers
    name, _, milliseconds = body.partition(b"\r\n\r\n")[0].partition(b": ")
    assert name == b"retry"
    assert 1000 <= int(milliseconds) <= 3000


@pytest.mark.parametrize("way", ["header", "query", "both"])
async def test_a_client_goes_on_after_the_last_id_that_it_has(
    store: Valkey, journal: Journal, way: str
) -> None:
    job = new_job()
    made = await journal.append_many(job, 9)
    made.append(await journal.append(job, "completed"))
    async with site(store, journal) as here:
        if way == "header":
            found = await here.read(job, made[4])
        elif way == "query":
            found = await here.read(job, lastEventId=made[4])
        else:
            found = await here.read(job, made[4], lastEventId=made[0])
    assert ids(found) == made[5:]


async def test_who_has_the_last_event_is_told_that_there_is_nothing_more(
    store: Valkey, journal: Journal
) -> None:
    job = new_job()
    await journal.append_many(job, 3)
    last = await journal.append(job, "failed")
    async with site(store, journal) as here, here.open(job, last) as response:
        assert response.status == 204
        assert await response.read() == b""


async def test_a_job_that_was_revived_goes_on_after_its_first_end(store: Valkey, journal: Journal) -> None:
    job = new_job()
    first = await journal.append(job, "failed")
    made = [await journal.append(job, "queued"), await journal.append(job, "completed")]
    async with site(store, journal) as here:
        assert ids(await here.read(job, first)) == made


@pytest.mark.parametrize("last", ["x", "1", "1-", "-", "1-2-3", f"{2**64}-1", "0x1-1", "9" * 400, "²-1"])
async def test_an_id_that_is_none_is_refused_and_named(store: Valkey, journal: Journal, last: str) -> None:
    job = new_job()
    await journal.append(job)
    async with site(store, journal) as here:
        if last.isascii():
            async with here.open(job, last) as response:
                assert response.status == 400
                assert list((await response.json())["errors"]) == ["Last-Event-ID"]
        async with here.open(job, lastEventId=last) as response:
            assert response.status == 400
            assert list((await response.json())["errors"]) == ["lastEventId"]


async def test_two_ids_are_one_too_many(store: Valkey, journal: Journal) -> None:
    job = new_job()
    await journal.append(job)
    async with site(store, journal) as here:
        headers = [("Last-Event-ID", "1-1"), ("Last-Event-ID", "1-2")]
        async with here.session.get(here.url(job), headers=headers) as response:
            assert response.status == 400


async def test_an_empty_id_is_none(store: Valkey, journal: Journal) -> None:
    job = new_job()
    made = [await journal.append(job), await journal.append(job, "completed")]
    async with site(store, journal) as here:
        assert ids(await here.read(job, "", lastEventId="")) == made


@pytest.mark.fault(96)
async def test_forgotten_events_are_replaced_by_the_whole_status(store: Valkey, journal: Journal) -> None:
    job = new_job()
    made = await journal.append_many(job, 10)
    await journal.trim(job, 2)
    async with site(store, journal) as here, here.open(job, made[0]) as response:
        found = await take(response, 1)
        assert found[0]["event"] == "resync"
        assert found[0]["id"] == made[-1]
        assert orjson.loads(found[0]["data"]) == {"jobId": job, "status": "running"}
        made.append(await journal.append(job, "cancelled"))
        assert ids(events(await response.read())) == made[-1:]


async def test_the_status_of_a_job_that_has_ended_is_the_last_that_is_sent(
    store: Valkey, journal: Journal
) -> None:
    job = new_job()
    first = await journal.append(job)
    last = await journal.append(job, "completed")
    await journal.trim(job, 1)
    async with site(store, journal) as here:
        [found] = await here.read(job, first)
        assert (found["event"], found["id"]) == ("resync", last)
        async with here.open(job, found["id"]) as response:
            assert response.status == 204


async def test_a_quiet_stream_is_kept_alive(store: Valkey, journal: Journal) -> None:
    job = new_job()
    await journal.append(job)
    async with site(store, journal, QUICK) as here, here.open(job) as response:
        await take(response, 1)
        for _ in range(3):
            block = await response.content.readuntil(b"\r\n\r\n")
            assert block.startswith(b":"), "that is no comment"


def test_proxies_that_wait_for_thirty_seconds_hear_of_a_quiet_stream() -> None:
    assert Manner().heartbeat < 30


@pytest.mark.fault(80, 96)
async def test_a_drain_ends_every_stream_and_a_client_goes_on_elsewhere(
    store: Valkey, journal: Journal
) -> None:
    job = new_job()
    made = await journal.append_many(job, 2)
    async with site(store, journal) as here, site(store, journal) as there:
        async with here.open(job) as response:
            seen = ids(await take(response, 2))
            here.streams.drain()
            assert events(await response.read()) == []  # a whole body, which ends
        made += await journal.append_many(job, 2)
        async with here.open(job, seen[-1]) as response:
            assert response.status == 200  # anything else would be for good
            assert events(await response.read()) == []
        made.append(await journal.append(job, "completed"))
        seen += ids(await there.read(job, seen[-1]))
    assert seen == made


@pytest.mark.fault(96)
async def test_streams_that_are_cut_anywhere_lose_nothing_and_repeat_nothing(
    store: Valkey, journal: Journal
) -> None:
    """Two processes, connections that break within an event, a feed that is cut, a store that dies."""
    job, luck = new_job(), random.Random(11)
    made = [await journal.append(job)]

    async def happen() -> None:
        for number in range(400):
            made.append(await journal.append(job, size=luck.randrange(300)))
            if number % 40 == 20:
                await journal.cut()
            if number == 250:
                store.kill()
                await asyncio.to_thread(store.start)
        made.append(await journal.append(job, "completed"))

    async def follow(*sites: Site) -> list[str]:
        seen: list[str] = []
        while True:
            async with luck.choice(sites).open(job, seen[-1] if seen else None) as response:
                if response.status == 204:
                    return seen
                body, most = b"", luck.choice([1, 50, 500, 5000, 50_000])
                while len(body) < most and (more := await response.content.read(most - len(body))):
                    body += more
                seen += ids(events(body))
                response.close()

    async with site(store, journal) as one, site(store, journal) as two, asyncio.timeout(60):
        happening = asyncio.create_task(happen())
        seen = await asyncio.gather(follow(one, two), follow(two, one), follow(one))
        await happening
    assert list(seen) == [made, made, made]


async def test_clients_that_go_away_are_not_kept_nor_logged(
    store: Valkey, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    job = new_job()
    await journal.append(job)
    async with site(store, journal) as here:
        for _ in range(20):
            async with here.open(job) as response:
                await take(response, 1)
                response.close()
                await journal.append(job)
        await until(lambda: not len(here.streams))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("size", [200, 5_000])
@pytest.mark.fault(96)
async def test_a_client_that_never_reads_costs_little_and_is_cut(
    store: Valkey, journal: Journal, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    job = new_job()
    await journal.append_many(job, 600_000 // size, size)
    async with site(store, journal, Manner(stall=0.3)) as here:
        with socket.socket() as dead:
            dead.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            dead.connect(("127.0.0.1", here.port))
            dead.sendall(f"GET /{job} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await until(lambda: here.connections)
            [transport] = here.connections
            waiting, in_kernel = 0, 0
            async with asyncio.timeout(WITHIN):
                await until(lambda: len(here.streams))
                while len(here.streams):
                    waiting = max(waiting, transport.get_write_buffer_size())
                    in_kernel = max(in_kernel, _send_buffer(transport))
                    await asyncio.sleep(0)
            assert transport.is_closing()
    assert sse.MOST_UNSENT <= waiting <= sse.MOST_UNSENT + size + 1000
    assert 0 < in_kernel <= 2 * sse.MOST_SENT
    assert [record for record in caplog.records if record.exc_info] == []


def _send_buffer(transport: asyncio.Transport) -> int:
    sock = transport.get_extra_info("socket")
    return 0 if sock.fileno() < 0 else int(sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))


async def test_a_client_has_so_many_streams_and_no_more(store: Valkey, journal: Journal) -> None:
    job = new_job()
    await journal.append(job)
    async with site(store, journal, most_of_client=2) as here:
        async with here.open(job) as first, here.open(job):
            await take(first, 1)
            async with here.open(job) as third:
                assert third.status == 429
                assert int(third.headers["Retry-After"]) > 0
                problem = await third.json()
                assert problem["code"] == "too_many_streams"
                assert problem["limit"] == 2
            async with here.open(job, client="another") as other:
                assert other.status == 200
        await until(lambda: not len(here.streams))
        async with here.open(job) as again:
            assert again.status == 200


async def test_a_process_has_so_many_streams_and_no_more(store: Valkey, journal: Journal) -> None:
    job = new_job()
    await journal.append(job)
    async with site(store, journal, most=2) as here, AsyncExitStack() as stack:
        for name in ("a", "b"):
            await stack.enter_async_context(here.open(job, client=name))
        async with here.open(job, client="c") as third:
            assert third.status == 503
            assert int(third.headers["Retry-After"]) > 0
            assert (await third.json())["limit"] == 2


def test_a_permit_is_given_back_whatever_happens() -> None:
    streams = Streams(1, 1)
    follower = Follower("job", "0-0", None, asyncio.Semaphore(), lambda: None)  # type: ignore[arg-type]
    for _ in range(3):
        with suppress(ZeroDivisionError), streams.opened("someone", follower):
            assert len(streams) == 1
            with pytest.raises(Problem), streams.opened("someone", follower):
                pass
            raise ZeroDivisionError
    assert len(streams) == 0


async def test_an_old_client_gets_a_body_that_ends_with_the_connection(
    store: Valkey, journal: Journal
) -> None:
    job = new_job()
    made = [await journal.append(job), await journal.append(job, "completed")]
    async with site(store, journal) as here:
        head, body = await _raw(here, f"GET /{job} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"chunked" not in head
    assert b"keep-alive" not in head
    assert ids(events(body)) == made


async def test_head_tells_the_head_and_nothing_else(store: Valkey, journal: Journal) -> None:
    job = new_job()
    await journal.append(job)
    async with site(store, journal) as here:
        head, body = await _raw(here, f"HEAD /{job} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert len(here.streams) == 0
    assert b"Content-Type: text/event-stream" in head
    assert b"Content-Length" not in head
    assert body == b""


async def _raw(here: Site, request: str) -> tuple[bytes, bytes]:
    """Head and body of the answer, up to the end of the connection."""
    async with asyncio.timeout(WITHIN):
        reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(request.encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body
