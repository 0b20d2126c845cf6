"""What the server says to raw bytes: requests that no HTTP library would send."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest

from server.app import ROUTES, create_app
from server.routes import load_table
from server.serve import listen, serving
from server.settings import load_settings

GOOD_LUCK = {
    "SIMULATOR_LATENCY": "constant:0",
    "SIMULATOR_HANG": "0",
    "SIMULATOR_FAILURE": "0",
    "SIMULATOR_INVALID": "0",
    "DOWNLOADS": "off",
}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A server as it is run, on a port of loopback."""
    settings = load_settings(GOOD_LUCK)
    app = create_app(settings, load_table(ROUTES.read_text("utf-8"), {}))
    with listen("127.0.0.1", 0) as sock:
        async with serving(app, settings, sock):
            yield sock.getsockname()[1]


async def say(port: int, raw: bytes) -> tuple[str, dict[str, str], bytes]:
    """Send *raw*, read until the server closes; status line, headers and body of the first response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    return status, dict(field.split(": ", 1) for field in fields), body


GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
BAD = {
    "length and chunked": GET + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "a signed length": GET + b"Content-Length: +2\r\n\r\nxx",
    "a negative length": GET + b"Content-Length: -1\r\n\r\n",
    "an unknown coding": GET + b"Transfer-Encoding: xchunked\r\n\r\n",
    "two hosts": GET + b"Host: y\r\n\r\n",
    "a host in other letters": b"GET /health HTTP/1.1\r\nHost: \xff\r\n\r\n",
    "a host with a path": b"GET /health HTTP/1.1\r\nHost: x/y?z=\r\n\r\n",
    "a host with a blank": b"GET /health HTTP/1.1\r\nHost: x y\r\n\r\n",
    "a folded header": GET + b"A: b\r\n c\r\n\r\n",
    "a bare line feed": b"GET /health HTTP/1.1\nHost: x\n\n",
    "a NUL in a value": GET + b"A: b\x00c\r\n\r\n",
    "a space before the colon": GET + b"A : b\r\n\r\n",
    "a bad method": b"GE(T /health HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long target": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a long field": GET + b"A: " + b"b" * 9000 + b"\r\n\r\n",
    "many fields": GET + b"".join(b"A%d: b\r\n" % n for n in range(200)) + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.fault(1, 2, 3, 4, 5, 6, 7, 9, 16)
async def test_bytes_that_are_no_request(port: int, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """400 as a problem document, connection closed, nothing echoed, no version, no traceback in the log."""
    raw = BAD[name] + (GET + b"\r\n" if name == "TLS" else b"")
    status, headers, body = await say(port, raw)
    assert status.split()[1] == "400"
    assert headers["Content-Type"] == "application/problem+json"
    assert status.startswith("HTTP/1.0") or headers["Connection"] == "close"
    assert headers["Server"] == "Hedgerow"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert json.loads(body)["code"] == "bad_request"
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING or one.exc_info]


@pytest.mark.fault(1)
async def test_a_request_smuggled_behind_a_bad_one_is_not_served(port: int) -> None:
    """After a request that cannot be parsed nothing else on that connection is read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(BAD["length and chunked"] + GET + b"\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.0 400")
    assert b"healthy" not in answer


async def test_pipelined_requests_are_answered_in_order(port: int) -> None:
    """Ten at once on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for n in range(10):
        close = b"Connection: close\r\n" if n == 9 else b""
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Request-Id: n%d\r\n%b\r\n" % (n, close))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    places = [answer.index(b"X-Request-Id: n%d\r\n" % n) for n in range(10)]
    assert places == sorted(places)


async def test_head_has_the_head_alone(port: int) -> None:
    """And the length of what a GET would have brought."""
    raw = b"HEAD /api/first HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    status, headers, body = await say(port, raw)
    assert (status, headers["Content-Length"], body) == ("HTTP/1.1 200 OK", "11", b"")


async def test_a_kept_connection_serves_again_after_a_plain_answer(port: int) -> None:
    """Two requests, one connection, two answers with their own ids."""
    get = b"GET /api/first HTTP/1.1\r\nHost: x\r\nX-Request-Id: %b\r\n%b\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(get % (b"one", b""))
    first = await reader.readuntil(b'{"time": 0}')
    writer.write(get % (b"two", b"Connection: close\r\n"))
    second = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b"X-Request-Id: one\r\n" in first
    assert b"Connection: close" not in first
    assert b"X-Request-Id: two\r\n" in second
    assert b"Connection: close\r\n" in second
