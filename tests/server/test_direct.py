"""The direct way as a caller on a socket sees it: not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from server.app import LIFECYCLE
from server.arrival import Arrival
from server.front import MOST_HELD, FrontProtocol
from server.head import LONGEST, Head, read_head
from tests.server.raw import Serve, get, servers, until

ODD = b"Content-Length: 0\r\n"
"""Means nothing, and makes a request go to aiohttp."""


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server with the given settings."""
    async with servers() as start:
        yield start


async def under_way(connections: list[FrontProtocol]) -> None:
    """Until the first connection is being answered directly."""
    await until(lambda: connections and connections[0]._answering)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/api/all", 200),
        ("/api/first?timeout=5000", 200),
        ("/api/smart?timeout=abc", 400),
        ("/api/all?timeout=0&timeout=1", 400),
        ("/api/first?timeout=300", 500),
        ("/api/within-timeout?timeout=300", 200),
    ],
)
async def test_an_answer_has_the_head_and_body_that_aiohttp_gives_it(
    serve: Serve, parsed: list[bytes], monkeypatch: pytest.MonkeyPatch, target: str, status: int
) -> None:
    """All but the date, and the times in it."""
    monkeypatch.setattr(Arrival, "age", lambda arrival: 0.0)  # who is late is told something else
    server = await serve(SIMULATOR_LATENCY="constant:5000" if target.endswith("=300") else "constant:0")
    connection = await server.connect()
    answers = []
    for odd in (b"", ODD):
        number, headers, body = await connection.ask(get(target, b"X-Request-Id: same\r\n" + odd))
        assert number == status
        del headers["Date"]
        headers.pop("Content-Length")  # of an error: the times in it may differ by a digit
        answers.append((headers, sorted(body.translate(None, b"0123456789"))))
    assert answers[0] == answers[1]
    assert len(parsed) == 1


async def test_requests_on_one_connection_have_their_own_ids(serve: Serve, parsed: list[bytes]) -> None:
    """The caller's where it is well-formed, else new ones that are never the same."""
    connection = await (await serve()).connect()
    ids = [
        (await connection.ask(get("/api/first", fields)))[1]["X-Request-Id"]
        for fields in (
            b"X-Request-Id: mine-1\r\n",
            b"",
            b"X-Request-Id: not/mine\r\n",
            b"x-request-id:  z \r\n",
        )
    ]
    assert (ids[0], ids[3]) == ("mine-1", "z")
    assert len({ids[1], ids[2], "not/mine"}) == 3
    assert parsed == []


async def test_what_a_caller_sends_ahead_is_answered_in_turn(serve: Serve) -> None:
    """Plain or not, and also what is cut in the middle."""
    server = await serve(SIMULATOR_LATENCY="constant:20")
    connection = await server.connect()
    more = b"".join(
        get("/api/first" if n % 2 else "/health", f"X-Request-Id: n{n}\r\n".encode()) for n in range(1, 8)
    )
    connection.writer.write(get("/api/first", b"X-Request-Id: n0\r\n"))
    await asyncio.sleep(0)
    connection.writer.write(more[:-9])
    first = await connection.answer()
    connection.writer.write(more[-9:])
    ids = [first[1]["X-Request-Id"], *[(await connection.answer())[1]["X-Request-Id"] for _ in range(7)]]
    assert ids == [f"n{n}" for n in range(8)]


async def test_a_caller_who_sends_without_end_is_not_read_without_end(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """Beyond a bound the rest waits in the kernel until the first answer is out."""
    server = await serve(SIMULATOR_LATENCY="constant:30000", SHUTDOWN_TIMEOUT_MS="0")
    caller = await server.connect()
    caller.writer.write(get("/api/first?timeout=30000"))
    await under_way(connections)
    caller.writer.write(get("/health") * 200_000)
    await until(lambda: connections[0]._holding > MOST_HELD)
    held = connections[0]._holding
    for _ in range(100):
        await asyncio.sleep(0)
    assert connections[0]._holding == held < 2**20


async def test_a_caller_who_leaves_is_not_answered_and_counts_as_gone(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """The call to the upstream ends with it."""
    server = await serve(SIMULATOR_LATENCY="constant:30000")
    caller = await server.connect()
    caller.writer.write(get("/api/first?timeout=30000"))
    await under_way(connections)
    caller.writer.transport.abort()
    await until(lambda: not connections[0]._answering)
    assert (
        await server.metric('hedgerow_responses_total{reason="caller_gone",route="first",status="499"}') == 1
    )


async def test_an_answer_given_while_draining_is_the_last_on_its_connection(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """The request had begun before the server was told to stop."""
    server = await serve(SIMULATOR_LATENCY="constant:50")
    caller = await server.connect()
    caller.writer.write(get("/api/first"))
    await under_way(connections)
    server.app[LIFECYCLE].draining = True
    status, headers, _ = await caller.answer()
    assert (status, headers["Connection"]) == (200, "close")
    assert await caller.reader.read() == b""


async def test_a_long_answer_is_not_cut_by_the_keep_alive_of_its_connection(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """aiohttp thinks that a connection is idle while it is answered directly."""
    server = await serve(SIMULATOR_LATENCY="constant:50")
    caller = await server.connect()
    caller.writer.write(get("/api/first"))
    await under_way(connections)
    connections[0]._next_keepalive_close_time = 0.0
    connections[0]._process_keepalive()
    assert (await caller.answer())[0] == 200


HEAD = b"GET /a?b=1 HTTP/1.1\r\nHost: x\r\n"


def test_a_plain_head_is_read() -> None:
    """Path, query and fields; names in any case, the first of several, blanks around the text left off."""
    given = b"X-REQUEST-ID:  a b \t\r\nX-Request-Id: c\r\nNot-Origin: d\r\n\r\n"
    assert read_head(HEAD + given) == Head("/a", "b=1", "a b", None)


@pytest.mark.parametrize(
    "raw",
    [
        HEAD,
        HEAD + b"\r\nG",
        HEAD + b"\r\n" + HEAD + b"\r\n",
        HEAD.replace(b"GET", b"POST") + b"\r\n",
        HEAD.replace(b"1.1", b"1.0") + b"\r\n",
        HEAD.replace(b"/a", b"http://x/a") + b"\r\n",
        HEAD.replace(b"/a", b"/%61") + b"\r\n",
        HEAD.replace(b"b=1", b"b=1#c") + b"\r\n",
        HEAD.replace(b"b=1", b"b=\xc3\xa4") + b"\r\n",
        HEAD + b"Host: y\r\n\r\n",
        b"GET /a HTTP/1.1\r\n\r\n",
        HEAD + b"A : b\r\n\r\n",
        HEAD + b"A: b\r\n c\r\n\r\n",
        HEAD + b"A: b\x00c\r\n\r\n",
        HEAD + b"A: b\x07c\r\n\r\n",
        HEAD + b"A: b\nB: c\r\n\r\n",
        HEAD + b": b\r\n\r\n",
        HEAD + b"Content-Length: 1\r\n\r\nx",
        HEAD + b"content-length: 0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Expect: 100-continue\r\n\r\n",
        HEAD + b"Upgrade: websocket\r\n\r\n",
        HEAD + b"Connection: keep-alive, Close\r\n\r\n",
        HEAD + b"A: b\r\n" * 120 + b"\r\n",
        HEAD + b"A: " + b"b" * LONGEST + b"\r\n\r\n",
    ],
)
def test_a_head_that_is_not_plain_is_left_to_aiohttp(raw: bytes) -> None:
    """Anything with a body, a say in the connection, an escape, or a fault."""
    assert read_head(raw) is None
