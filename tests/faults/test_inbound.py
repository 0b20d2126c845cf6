"""Group A: what callers send to a server, by the byte."""

from __future__ import annotations

import asyncio
import gzip
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from pytest_aiohttp.plugin import AiohttpServer

from server.access_log import AccessLog
from server.edge import Edge, middleware
from server.front import FrontProtocol
from server.headers import Decorator
from server.lifecycle import Lifecycle
from server.patience import PORTION, Patience
from server.protocol import EdgeProtocol
from server.serve import KEEPALIVE, LINGER
from server.telemetry import Telemetry
from strategies.virtual_time import run_virtual
from tests.faults import process
from tests.faults.conftest import PATIENCE, last_word, only, problem, rest
from tests.server.conftest import Upstream
from tests.server.raw import Connection, Serve, Server, get, until

HEAD = b"GET /health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /addEvent HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CANARY = b"canary-7f3a"

AMBIGUOUS = {
    "length and chunks": HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "the same length twice": HEAD + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "two lengths in one": HEAD + b"Content-Length: 1, 1\r\n\r\nx",
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\nxx",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "a length of Python's": HEAD + b"Content-Length: 1_0\r\n\r\n0123456789",
    "a length with a tail": HEAD + b"Content-Length: 2x\r\n\r\nxx",
    "an unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n",
    "chunked, then another": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "two codings": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two hosts": HEAD + b"Host: y\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "a folded header": HEAD + b"A: b\r\n c\r\n\r\n",
    "a bare line feed": b"GET /health HTTP/1.1\nHost: x\n\n",
    "a CR in a value": HEAD + b"A: b\rc\r\n\r\n",
    "a NUL in a value": HEAD + b"A: b\x00c\r\n\r\n",
    "a space before the colon": HEAD + b"A : b\r\n\r\n",
}


@pytest.mark.fault(1, 2, 3, 4, 5, 6)
@pytest.mark.parametrize("extensions", [True, False], ids=["C", "Python"])
async def test_a_request_that_can_be_read_in_two_ways_is_refused_by_both_parsers(extensions: bool) -> None:
    """With a 400, and the request that is smuggled behind it is not served."""
    environ = {} if extensions else {"AIOHTTP_NO_EXTENSIONS": "1"}
    async with process.server(None, **environ) as server:
        for name, raw in AMBIGUOUS.items():
            caller = await server.connect()
            caller.writer.write(raw + HEAD + b"\r\n")
            read = await rest(Connection(caller.reader, caller.writer))
            assert problem(only(read)) == (400, "bad_request"), name
            assert b"healthy" not in read, name
        caller = await server.connect()
        caller.writer.write(HEAD + b"Content-Length:  2 \r\nConnection: close\r\n\r\n{}")
        assert b" 200 OK" in await caller.reader.readline()
        assert not server.log


@pytest.mark.fault(10)
@pytest.mark.parametrize("extensions", [True, False], ids=["C", "Python"])
async def test_a_wrong_chunk_is_refused_by_both_parsers_while_the_body_is_read(extensions: bool) -> None:
    """With a 400, and no word in the log."""
    environ = {} if extensions else {"AIOHTTP_NO_EXTENSIONS": "1"}
    async with process.server(None, **environ) as server:
        for chunk in (b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n"):
            caller = await server.connect()
            caller.writer.write(CHUNKED.removesuffix(b"\r\n") + b"Expect: 100-continue\r\n\r\n")
            await caller.reader.readuntil(b"100 Continue\r\n\r\n")
            answer = await last_word(Connection(caller.reader, caller.writer), chunk)
            assert problem(answer) == (400, "bad_request")
        assert not server.log


@pytest.mark.fault(7)
@pytest.mark.parametrize(
    ("raw", "answer"),
    [
        (b"GET /health\r\n\r\n", (505, "version_not_supported")),
        (b"GET /health HTTP/0.9\r\nHost: x\r\n\r\n", (505, "version_not_supported")),
        (b"GET /health HTTP/2.0\r\nHost: x\r\n\r\n", (505, "version_not_supported")),
        (b"GET /api/all HTTP/2.0\r\nHost: x\r\n\r\n", (505, "version_not_supported")),
        (b"GET /health HTTP/1.2\r\nHost: x\r\n\r\n", (400, "bad_request")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", (400, "bad_request")),
    ],
)
async def test_another_version_of_http_is_refused_in_1_1(
    serve: Serve, raw: bytes, answer: tuple[int, str]
) -> None:
    """Or in 1.0, where the line could not be read at all; never in a version that is not spoken here."""
    connection = await (await serve()).connect()
    connection.writer.write(raw)
    read = await rest(connection)
    assert read.startswith(b"HTTP/1.")
    assert problem(only(read)) == answer


@pytest.mark.fault(8)
@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"GET http://evil.example/health", (400, "bad_target")),
        (b"GET http://evil.example/api/all", (400, "bad_target")),
        (b"GET evil.example:80", (400, "bad_request")),
        (b"GET *", (400, "bad_request")),
        (b"CONNECT evil.example:443", (400, "bad_target")),
        (b"FOO /health", (400, "bad_request")),
        (b"TRACE /health", (405, "method_not_allowed")),
        (b"PROPFIND /health", (405, "method_not_allowed")),
        (b"TRACE /api/all", (405, "method_not_allowed")),
        (b"OPTIONS *", (404, "not_found")),
        (b"GET //evil.example/health", (404, "not_found")),
        (b"GET //[", (404, "not_found")),
    ],
)
async def test_an_odd_target_or_method_is_refused(serve: Serve, line: bytes, answer: tuple[int, str]) -> None:
    """And a host that it names appears in no header."""
    connection = await (await serve()).connect()
    status, headers, body = await last_word(
        connection, line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert problem((status, headers, body)) == answer
    assert "evil.example" not in str(headers)


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    "raw",
    [
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD + b"A: " + b"b" * 9000 + b"\r\n\r\n",
        HEAD + b"b" * 9000 + b": a\r\n\r\n",
        HEAD + b"".join(b"A%d: b\r\n" % n for n in range(128)) + b"\r\n",
        HEAD + b"".join(b"A%d: b\r\n" % n for n in range(20_000)) + b"\r\n",
        CHUNKED + b"2\r\n{}\r\n0\r\n" + b"".join(b"A%d: b\r\n" % n for n in range(20_000)) + b"\r\n",
    ],
    ids=["line", "value", "name", "129 headers", "20,000 headers", "20,000 trailers"],
)
async def test_what_is_too_long_or_too_much_is_refused(serve: Serve, raw: bytes) -> None:
    """With a 400."""
    assert problem(await last_word(await (await serve()).connect(), raw)) == (400, "bad_request")


@pytest.mark.fault(9)
async def test_what_is_just_short_enough_is_served(serve: Serve) -> None:
    """128 headers, and a line and a field of 8 kB."""
    raw = b"GET /health?" + b"a" * 8000 + b" HTTP/1.1\r\nHost: x\r\nLong: " + b"b" * 8000 + b"\r\n"
    raw += b"".join(b"A%d: b\r\n" % n for n in range(126)) + b"\r\n"
    assert (await (await (await serve()).connect()).ask(raw))[0] == 200


def chunks(count: int, size: int = 1, extension: bytes = b"") -> bytes:
    """A chunked body."""
    return (b"%x%b\r\n%b\r\n" % (size, extension, b"x" * size)) * count + b"0\r\n\r\n"


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "body",
    [b"f" * 17 + b"\r\n{}\r\n0\r\n\r\n", b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n"],
    ids=["overflow", "no number", "longer than it says"],
)
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_chunk_that_is_wrong_is_refused_wherever_it_comes(
    serve: Serve, connections: list[FrontProtocol], body: bytes, at_once: bool
) -> None:
    """With the head, or while a handler waits for the body."""
    connection = await (await serve()).connect()
    connection.writer.write(CHUNKED + body if at_once else CHUNKED)
    if not at_once:
        await until(lambda: connections and connections[0]._request_in_progress)
    assert problem(await last_word(connection, b"" if at_once else body)) == (400, "bad_request")


@pytest.mark.fault(10)
@pytest.mark.parametrize("head", [CHUNKED, CHUNKED.replace(b"POST /addEvent", b"GET /health")])
@pytest.mark.parametrize(
    "body",
    [chunks(1_000_000), chunks(5000, 1, b";a=" + b"b" * 1000), b"1;a=" + b"b" * 3_000_000],
    ids=["a million bytes", "extensions", "one endless extension"],
)
async def test_a_body_that_is_nearly_all_wrapping_is_given_up(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, head: bytes, body: bytes
) -> None:
    """After a part of it that takes the loop a few milliseconds, not the second that all of it would."""
    read = 0
    original = EdgeProtocol._parse

    def spy(self: EdgeProtocol, data: bytes) -> None:
        nonlocal read
        read += len(data)
        original(self, data)

    monkeypatch.setattr(EdgeProtocol, "_parse", spy)
    connection = await (await serve()).connect()
    await last_words_while_sending(connection, head + body)
    assert read < 1_000_000


async def last_words_while_sending(connection: Connection, raw: bytes) -> bytes:
    """Send *raw* in pieces, as far as it is taken; what comes until the connection is closed."""

    async def send() -> None:
        for start in range(0, len(raw), 65536):
            connection.writer.write(raw[start : start + 65536])
            await connection.writer.drain()

    sending = asyncio.ensure_future(send())
    read = await rest(connection)
    sending.cancel()
    await asyncio.wait([sending])
    if not sending.cancelled():
        assert isinstance(sending.exception(), ConnectionError | None)
    return read


@pytest.mark.fault(11)
@pytest.mark.parametrize("fields", [b"", b"Expect: 100-continue\r\n"])
async def test_a_length_over_the_limit_is_refused_at_the_head(serve: Serve, fields: bytes) -> None:
    """Nothing of the body has been sent, and the caller is not asked to."""
    connection = await (await serve()).connect()
    raw = POST + fields + b"Content-Length: 1048577\r\n\r\n"
    answer = await connection.ask(raw)
    assert problem(answer) == (413, "too_large")
    assert answer[1]["Connection"] == "close"


@pytest.mark.fault(11)
async def test_chunks_over_the_limit_are_refused_at_the_limit(serve: Serve) -> None:
    """The body is far from its end."""
    connection = await (await serve()).connect()
    connection.writer.write(CHUNKED)
    body = chunks(17, 65536).removesuffix(b"0\r\n\r\n")
    assert problem(await connection.ask(body)) == (413, "too_large")


@pytest.mark.fault(11)
async def test_a_body_of_just_the_limit_is_read(serve: Serve) -> None:
    """1 MiB of blanks is no JSON, but it is not too large."""
    connection = await (await serve()).connect()
    answer = await connection.ask(POST + b"Content-Length: 1048576\r\n\r\n" + b" " * 1048576)
    assert problem(answer) == (400, "invalid_json")


@pytest.mark.fault(12)
@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd", b"GZIP, gzip", b"x"])
async def test_a_coded_body_is_refused_unread(serve: Serve, coding: bytes) -> None:
    """Even one that would be good JSON; ``identity`` is no coding."""
    server = await serve()
    body = gzip.compress(b'{"name": "a", "userId": "1"}')
    raw = POST + b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(body)) + body
    assert problem(await last_word(await server.connect(), raw)) == (415, "unsupported_media_type")
    raw = POST + b"Content-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}"
    assert problem(await (await server.connect()).ask(raw)) == (400, "validation")


@pytest.mark.fault(12)
async def test_nothing_decompresses_what_nobody_reads(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the body of a GET nor the rest of a refused one."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a body was decompressed")

    monkeypatch.setattr("aiohttp.http_parser.DeflateBuffer.__init__", never)
    bomb = gzip.compress(bytes(10_000_000))
    raw = HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb
    assert problem(await last_word(await (await serve()).connect(), raw))[0] == 415


@pytest.mark.fault(13)
@pytest.mark.parametrize("path", ["/health", "/api/first"])
async def test_a_thousand_pipelined_requests_are_answered_in_order(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """However many came at once, only a few wait in the server's own hands."""
    parse, held = FrontProtocol._parse, []

    def spy(self: FrontProtocol, data: bytes) -> None:
        parse(self, data)
        held.append(len(self._messages))

    monkeypatch.setattr(FrontProtocol, "_parse", spy)
    connection = await (await serve(SIMULATOR_LATENCY="constant:0")).connect()
    requests = [get(path, b"X-Request-Id: n%d\r\n" % n) for n in range(1000)]
    connection.writer.write(b"".join(requests))
    for n in range(1000):
        status, headers, _ = await connection.answer()
        assert (status, headers["X-Request-Id"]) == (200, f"n{n}")
    assert 0 < max(held) < 100


@pytest.mark.fault(16)
async def test_tls_on_the_plain_port_is_refused(serve: Serve) -> None:
    """At the first byte."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256))
    assert problem(await last_word(await (await serve()).connect(), hello)) == (400, "bad_request")


@pytest.mark.fault(17)
async def test_a_caller_who_waits_to_continue_is_told_to(serve: Serve) -> None:
    """And then served."""
    connection = await (await serve()).connect()
    connection.writer.write(POST + b"Expect: 100-Continue\r\nContent-Length: 2\r\n\r\n")
    assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert problem(await connection.ask(b"{}")) == (400, "validation")


@pytest.mark.fault(17)
@pytest.mark.parametrize("line", [b"GET /api/all", b"GET /nothing", b"POST /addEvent"])
async def test_any_other_expectation_is_refused(serve: Serve, line: bytes) -> None:
    """And not repeated."""
    raw = line + b" HTTP/1.1\r\nHost: x\r\nExpect: %b\r\nContent-Length: 0\r\n\r\n" % CANARY
    answer = await last_word(await (await serve()).connect(), raw)
    assert problem(answer) == (417, "expectation_failed")
    assert CANARY not in answer[2]


Behind: TypeAlias = Callable[..., Awaitable[Server]]

BAD = {
    **AMBIGUOUS,
    "version": b"GET /%b HTTP/2.0\r\nHost: x\r\n\r\n" % CANARY,
    "target": b"GET http://%b/ HTTP/1.1\r\nHost: x\r\n\r\n" % CANARY,
    "method": b"%b / HTTP/1.1\r\nHost: x\r\n\r\n" % CANARY,
    "name": HEAD + b"%b(: b\r\n\r\n" % CANARY,
    "value": HEAD + b"A: %b\x00\r\nX-Request-Id: %b\r\n\r\n" % (CANARY, CANARY),
    "coding": POST + b"Content-Encoding: %b\r\nContent-Length: 1\r\n\r\nx" % CANARY,
    "expectation": HEAD + b"Expect: %b\r\n\r\n" % CANARY,
    "chunk": CHUNKED + CANARY + b"\r\n\r\n",
    "garbage": CANARY * 10 + b"\r\n\r\n",
}


@pytest.mark.fault(20)
async def test_an_answer_to_a_bad_request_tells_no_version_and_repeats_nothing(serve: Serve) -> None:
    """Whatever is wrong with it."""
    server = await serve()
    for name, raw in BAD.items():
        answer = await last_word(await server.connect(), raw)
        assert problem(answer)[0] in (400, 415, 417, 505), name
        told = (str(answer[1]) + answer[2].decode()).lower()
        assert CANARY.decode() not in told, name
        assert "python" not in told, name
        assert "aiohttp" not in told, name


@pytest.mark.fault(20, 103)
async def test_a_flood_of_bad_requests_leaves_the_log_empty(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """They are counted instead."""
    server = await serve()
    caplog.set_level(logging.INFO)
    for raw in BAD.values():
        for _ in range(5):
            await last_word(await server.connect(), raw)
    assert [one.getMessage() for one in caplog.records] == []
    counted = 'hedgerow_responses_total{reason="version_not_supported",route="unparsed",status="505"}'
    assert await server.metric(counted) == 5


@pytest.fixture
async def upstream() -> Upstream:
    """Plays the upstream of ``/api/*``."""
    return Upstream()


@pytest.fixture
async def behind(serve: Serve, upstream: Upstream, aiohttp_server: AiohttpServer) -> Behind:
    """Start a server in front of *upstream*."""

    async def start(**environ: str) -> Server:
        app = web.Application()
        app.router.add_get("/work", upstream.answer)
        played = await aiohttp_server(app)
        return await serve(WORK_API_URL=str(played.make_url("/work")), **environ)

    return start


SOON = 0.05 + 0.2
"""Seconds of CPU, while nothing else is done: what is promised, and what this machine may add."""


async def soon(so: Callable[[], object]) -> None:
    """Let the loop turn until it is *so*. A machine that does other things meanwhile makes nobody late."""
    began = time.process_time()
    while not so():
        assert time.process_time() - began < SOON
        await asyncio.sleep(0)


@pytest.mark.fault(18)
@pytest.mark.parametrize("fields", [b"", b"Content-Length: 0\r\n"], ids=["direct", "aiohttp"])
@pytest.mark.parametrize("lane", ["on", "off"])
async def test_a_caller_who_leaves_during_a_request_ends_its_attempts(
    behind: Behind, upstream: Upstream, connections: list[FrontProtocol], fields: bytes, lane: str
) -> None:
    """At once. An upstream that goes on all the same is left at once too, or after the lane's second."""
    upstream.plays("hang")
    server = await behind(FAST_LANE=lane)
    connection = await server.connect()
    connection.writer.write(get("/api/all", fields))
    await asyncio.wait_for(upstream.called_times(2), PATIENCE)
    in_flight = 'hedgerow_attempts_in_flight{upstream="work"}'
    assert await server.metric(in_flight) == 2
    connection.writer.transport.abort()
    await soon(lambda: connections[0].transport is None)
    began = time.process_time()
    while await server.metric(in_flight):
        assert time.process_time() - began < SOON
    if lane == "off":
        await soon(upstream.gone.is_set)
    await asyncio.wait_for(upstream.gone.wait(), PATIENCE)


@pytest.mark.fault(18)
async def test_a_caller_who_leaves_after_the_answer_leaves_no_call_behind(
    behind: Behind, upstream: Upstream
) -> None:
    """The attempt that lost has ended too."""
    upstream.plays(b'{"time": 1}', "hang")
    connection = await (await behind()).connect()
    assert (await connection.ask(get("/api/first")))[0] == 200
    connection.writer.transport.abort()
    await asyncio.wait_for(upstream.gone.wait(), PATIENCE)


@pytest.mark.fault(18)
@pytest.mark.parametrize("sent", [b"", b"GET /api/a", POST, POST + b"Content-Length: 9\r\n\r\n{"])
async def test_a_caller_who_leaves_before_its_request_is_whole_asks_nothing(
    behind: Behind, upstream: Upstream, connections: list[FrontProtocol], sent: bytes
) -> None:
    """And its connection is gone."""
    connection = await (await behind()).connect()
    connection.writer.write(sent)
    await until(lambda: connections and (connections[0].arrived or not sent))
    connection.writer.transport.abort()
    await until(lambda: connections[0].transport is None)
    assert upstream.calls == 0


@pytest.mark.fault(19)
@pytest.mark.parametrize("fields", [b"", b"Content-Length: 0\r\n"], ids=["direct", "aiohttp"])
async def test_a_caller_who_half_closes_counts_as_gone(
    behind: Behind, upstream: Upstream, fields: bytes
) -> None:
    """Its upstream calls are cancelled, and the connection is closed without an answer."""
    upstream.plays("hang")
    connection = await (await behind()).connect()
    connection.writer.write(get("/api/all", fields))
    await asyncio.wait_for(upstream.called_times(2), PATIENCE)
    connection.writer.write_eof()
    await asyncio.wait_for(upstream.gone.wait(), PATIENCE)
    assert await rest(connection) == b""


@pytest.mark.fault(14)
async def test_the_limits_are_the_operators(serve: Serve) -> None:
    """Silence is answered with silence, the rest with a 408; each ends the connection."""
    server = await serve(HEADER_TIMEOUT_MS="300", BODY_TIMEOUT_MS="300")
    assert await rest(await server.connect()) == b""
    assert problem(await last_word(await server.connect(), b"GET /")) == (408, "request_timeout")
    assert problem(await last_word(await server.connect(), b"\r\n\r\n")) == (408, "request_timeout")
    answer = await last_word(await server.connect(), POST + b"Content-Length: 9\r\n\r\n{")
    assert problem(answer) == (408, "request_timeout")
    assert answer[1]["Connection"] == "close"
    connection = await server.connect()
    assert (await connection.ask(get("/health")))[0] == 200
    assert problem(await last_word(connection, b"GET /")) == (408, "request_timeout")


@pytest.mark.fault(15)
async def test_callers_who_drip_are_closed_while_others_are_answered(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """Two hundred who are silent, a hundred with half a head, and one who asks."""
    server = await serve(HEADER_TIMEOUT_MS="300")
    asking = await server.connect()
    assert (await asking.ask(get("/api/first")))[0] == 200
    idle = [await server.connect() for _ in range(300)]
    for one in idle[:100]:
        one.writer.write(b"GET /api/all HTTP/1.1\r\nA: ")
    while any(one.transport for one in connections[1:]):
        for one, seen in zip(idle[:100], connections[1:], strict=False):
            if seen.transport is not None:
                one.writer.write(b"b")
        assert (await asking.ask(get("/api/first")))[0] == 200
    ends = [await rest(one) for one in idle]
    told = {
        problem(only(one)) for one in ends[:100] if one
    }  # a byte at the last moment resets the connection
    assert told <= {(408, "request_timeout")}
    assert set(ends[100:]) == {b""}


# The same on a clock that jumps, to the second.


class Wire(asyncio.Transport):
    """A connection without a network, that notes what is said on it, and when it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.said = b""
        self.answered: float | None = None
        self.closed: float | None = None
        self.protocol: EdgeProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.answered is None:
            self.answered = self.loop.time()
        self.said += data

    def close(self) -> None:
        if self.closed is None:
            self.closed = self.loop.time()
            assert self.protocol is not None
            self.loop.call_soon(self.protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self.closed is not None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


Said: TypeAlias = list[tuple[float, bytes]]
Ended: TypeAlias = tuple[float | None, float | None, bytes]


def played(
    *said: tuple[float, bytes], handler_takes: float = 0.0
) -> tuple[float | None, float | None, bytes]:
    """
    Play a caller who says each of *said* at its second, to a connection with the default limits and a
    handler that reads the body; when it was answered, when it was closed, and what it was told.
    """

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            await request.read()
        await asyncio.sleep(handler_takes)
        return web.Response(text="ok")

    async def play() -> Ended:
        loop = asyncio.get_running_loop()
        telemetry = Telemetry(CollectorRegistry())
        around = middleware(Edge(telemetry, AccessLog("off"), loop.time), Lifecycle())
        server = web.Server(lambda request: around(cast(web.Request, request), cast(Any, handler)))
        limits = {"heads": Patience(5.0, loop), "bodies": Patience(10.0, loop)}
        wire = Wire()
        wire.protocol = protocol = EdgeProtocol(
            server,
            Decorator(("*",)),
            telemetry,
            **limits,
            access_log=None,
            keepalive_timeout=KEEPALIVE,
            lingering_time=LINGER,
        )
        protocol.connection_made(wire)
        for second, data in said:
            await asyncio.sleep(second - loop.time())
            if not wire.is_closing():
                protocol.data_received(data)
        await asyncio.sleep(200)
        return wire.answered, wire.closed, wire.said

    return run_virtual(play())


def drip(start: float, text: bytes) -> Said:
    """A byte each second."""
    return [(start + n, text[n : n + 1]) for n in range(len(text))]


@pytest.mark.fault(14)
def test_a_silent_connection_is_closed_after_five_seconds() -> None:
    """Without a word."""
    assert played() == (None, 5.0, b"")


@pytest.mark.fault(14)
def test_a_head_has_five_seconds_from_its_first_byte() -> None:
    """Whoever drips it."""
    answered, closed, said = played(*drip(3.0, HEAD))
    assert (answered, closed) == (8.0, 8.0)
    assert problem(only(said)) == (408, "request_timeout")


@pytest.mark.fault(14)
def test_a_later_head_has_five_seconds_too_and_idleness_seventy_five() -> None:
    """A head that came in time is forgotten."""
    whole = HEAD + b"\r\n"
    assert played((1.0, whole))[:2] == (1.0, 76.0)
    assert played((1.0, whole[:9]), (5.9, whole[9:]))[:2] == (5.9, 80.9)
    _, closed, said = played((1.0, whole), *drip(60.0, HEAD))
    assert closed == 65.0
    assert said.count(b"HTTP/1.1 408 ") == 1


@pytest.mark.fault(14)
def test_a_body_has_ten_seconds_from_its_head() -> None:
    """Whoever drips it; one that comes in time is served."""
    head = POST + b"Content-Length: 10\r\n\r\n"
    answered, closed, said = played((2.0, head), *drip(4.5, b"x" * 10))
    assert (answered, closed) == (12.0, 12.0)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in said
    answered, closed, said = played((2.0, head), *drip(2.5, b"x" * 10))
    assert (answered, closed) == (11.5, 11.5 + KEEPALIVE)
    assert said.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.fault(14)
def test_a_body_that_nobody_reads_is_not_waited_for_long() -> None:
    """The answer does not wait for it, and the connection ends."""
    answered, closed, said = played((0.0, HEAD + b"Content-Length: 10\r\n\r\n"))
    assert (answered, closed) == (0.0, LINGER)
    assert said.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.fault(14)
def test_the_limits_are_for_callers_and_not_for_handlers() -> None:
    """An answer may take its time."""
    assert played((4.0, HEAD + b"\r\n"), handler_takes=60.0)[:2] == (64.0, 139.0)


@pytest.mark.fault(15)
def test_who_began_first_is_overdue_first_and_all_in_portions() -> None:
    """One timer does for all; whoever ends, or begins again, is not overdue."""

    async def play() -> list[tuple[float, int]]:
        loop = asyncio.get_running_loop()
        told: list[tuple[float, int]] = []
        patience = Patience(5.0, loop)
        late = [lambda n=n: told.append((loop.time(), n)) for n in range(PORTION * 2 + 4)]
        for one in late[:-1]:
            patience.begin(one)
        await asyncio.sleep(1.0)
        patience.begin(late[-1])
        patience.begin(late[0])
        patience.end(late[1])
        patience.end(late[1])
        await asyncio.sleep(100.0)
        patience.begin(late[1])
        patience.close()
        await asyncio.sleep(100.0)
        return told

    first = [(5.0, n) for n in range(2, PORTION * 2 + 3)]
    assert run_virtual(play()) == [*first, (6.0, PORTION * 2 + 3), (6.0, 0)]


@pytest.mark.fault(15)
def test_one_that_fails_when_told_does_not_keep_the_others_waiting() -> None:
    """They are told in the loop's next turn or later, but they are."""

    async def play() -> tuple[list[str], int]:
        loop = asyncio.get_running_loop()
        failures: list[object] = []
        loop.set_exception_handler(lambda loop, context: failures.append(context["exception"]))
        told: list[str] = []
        patience = Patience(1.0, loop)

        def fail() -> None:
            raise ValueError

        patience.begin(fail)
        await asyncio.sleep(0.5)
        patience.begin(lambda: told.append("second"))
        await asyncio.sleep(10.0)
        return told, len(failures)

    assert run_virtual(play()) == (["second"], 1)
