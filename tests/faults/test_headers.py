"""Group C: what callers say about themselves. It is not believed, and not passed on."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
from aiohttp import web
from multidict import CIMultiDict
from pytest_aiohttp.plugin import AiohttpServer

from tests.faults.conftest import last_word, problem
from tests.server.raw import Connection, Serve, get

CANARY = "canary-7f3a"
WAYS = pytest.mark.parametrize("fields", [b"", b"Content-Length: 0\r\n"], ids=["direct", "aiohttp"])

Mirror: TypeAlias = list[CIMultiDict[str]]
Behind: TypeAlias = Callable[..., Awaitable[Connection]]


@pytest.fixture
def seen() -> Mirror:
    """The headers of each request that reached an upstream."""
    return []


@pytest.fixture
async def behind(serve: Serve, seen: Mirror, aiohttp_server: AiohttpServer) -> Behind:
    """Start a server in front of upstreams that keep the headers they get; a connection to it."""

    async def answer(request: web.Request) -> web.Response:
        seen.append(CIMultiDict(request.headers))
        bodies: dict[str, object] = {"/work": {"time": 1}, "/addEvent": {"success": True}, "/getUsers": []}
        found = bodies.get(request.path, {"events": ["event-1"]})
        return web.json_response(found, headers={"Set-Cookie": f"session={CANARY}"})

    async def start(**environ: str) -> Connection:
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", answer)
        base = await aiohttp_server(app)
        urls = {"WORK_API_URL": str(base.make_url("/work")), "EVENT_API_BASE_URL": str(base.make_url(""))}
        return await (await serve(**urls, **environ)).connect()

    return start


MALFORMED = (
    b"canary-7f3a%0d%0aSet-Cookie: a=b",
    b"canary-7f3a\xff\xfe",
    b"canary-7f3a\xe2\x80\xa8",
    b"canary-7f3a\xc2\x85",
    "canary-7f3a-ünïcode".encode(),
    b"canary-7f3a b",
    b"canary-7f3a\tb",
    b"canary-7f3a" + b"x" * 118,
    b"canary-7f3a" + b"x" * 8000,
    b"<canary-7f3a>",
    b"",
)


@WAYS
@pytest.mark.fault(31)
async def test_a_request_id_that_is_malformed_is_replaced(
    serve: Serve, caplog: pytest.LogCaptureFixture, fields: bytes
) -> None:
    """It is neither repeated nor logged, and the connection stays good."""
    caplog.set_level(logging.INFO)
    connection = await (await serve()).connect()
    for given in MALFORMED:
        for target in ("/api/first?timeout=x", "/api/first", "/nothing"):
            raw = get(target, fields + b"X-Request-Id: " + given + b"\r\n")
            _, headers, body = await connection.ask(raw)
            assert str(uuid.UUID(headers["X-Request-Id"])) == headers["X-Request-Id"]
            assert CANARY not in str(headers) + body.decode()
    lines = [vars(one) for one in caplog.records if one.name == "hedgerow.access"]
    assert len(lines) == 3 * len(MALFORMED)
    assert CANARY not in repr(lines)


@pytest.mark.fault(31)
@pytest.mark.parametrize("between", [b"\r\n ", b"\r", b"\n", b"\x00", b"\r\n\r\n"])
async def test_a_request_id_cannot_split_an_answer(serve: Serve, between: bytes) -> None:
    """A raw end of line in it makes a bad request, and no header of ours."""
    connection = await (await serve()).connect()
    raw = get("/health", b"X-Request-Id: a" + between + b"Set-Cookie: a=b\r\nConnection: close\r\n")
    answer = await last_word(connection, raw)
    assert problem(answer) == (400, "bad_request")
    assert "Set-Cookie" not in str(answer)


TRACES = (
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"00-00000000000000000000000000000000-0000000000000000-00",
    b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"00-0af7651916cd43dd",
    b"\xff" * 55,
    b"0" * 8000,
    b"",
)


@WAYS
@pytest.mark.fault(32)
async def test_without_a_collector_a_trace_context_changes_nothing(
    behind: Behind, seen: Mirror, fields: bytes
) -> None:
    """Without a collector nobody reads it, so it is neither repeated nor passed on."""
    connection = await behind()
    for given in TRACES:
        trace = b"traceparent: " + given + b"\r\ntracestate: a=" + given + b"\r\n"
        status, headers, body = await connection.ask(get("/api/first", fields + trace))
        assert (status, body) == (200, b'{"time": 1}')
        assert "traceparent" not in {name.lower() for name in headers}
    assert len(seen) >= 2 * len(TRACES)
    assert not [one for one in seen if "traceparent" in one or "tracestate" in one]


@pytest.mark.fault(34)
@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:9999", b"", b"[::1]:8000"])
async def test_the_host_that_a_caller_names_is_in_no_answer_and_no_call(
    behind: Behind, seen: Mirror, host: bytes
) -> None:
    """Whatever it is: links have no host, and upstreams get their own."""
    connection = await behind()
    for target in ("/", "/openapi.json", "/docs", "/ready", "/nothing", "/api/first", "/getUsers"):
        _, headers, body = await connection.ask(naming(host, target))
        assert "evil.example" not in str(headers)
        assert b"evil.example" not in body
    assert len(seen) >= 2
    assert all(one["Host"].startswith("127.0.0.1:") for one in seen)


@pytest.mark.fault(34)
@pytest.mark.parametrize("host", [b"evil.example:99999999", b"[::1", b"evil.example/a b", b"\xff"])
async def test_what_is_no_host_is_refused_and_not_repeated(behind: Behind, host: bytes) -> None:
    for target in ("/", "/docs", "/nothing", "/getUsers"):
        status, headers, body = await (await behind()).ask(naming(host, target))
        assert (status, json.loads(body)["code"]) == (400, "bad_request")
        assert "evil.example" not in str(headers)
        assert b"evil.example" not in body


def naming(host: bytes, target: str) -> bytes:
    """A request whose caller says in three ways whom it means."""
    raw = b"GET %b HTTP/1.1\r\nHost: %b\r\n" % (target.encode(), host)
    return raw + b"X-Forwarded-Host: evil.example\r\nForwarded: host=evil.example\r\n\r\n"


FORGED = {
    "Connection": "X-Auth, Keep-Alive, TE",
    "Keep-Alive": "timeout=1",
    "Proxy-Connection": "keep-alive",
    "TE": "trailers",
    "Trailer": "X-Auth",
    "X-Auth": CANARY,
    "Proxy-Authorization": f"Basic {CANARY}",
    "Authorization": f"Bearer {CANARY}",
    "Cookie": f"session={CANARY}",
    "X-Forwarded-For": CANARY,
    "Idempotency-Key": CANARY,
    "Referer": f"https://{CANARY}.example/",
    "User-Agent": CANARY,
    "Origin": f"https://{CANARY}.example",
}


@pytest.mark.fault(35, 36)
@pytest.mark.parametrize("lane", ["on", "off"])
@pytest.mark.parametrize(
    "target", ["/api/all", "/api/smart", "/getUsers", "/getEventsByUserId/1", "/addEvent"]
)
async def test_no_header_of_a_caller_is_passed_on(
    behind: Behind, seen: Mirror, lane: str, target: str
) -> None:
    """Not one; and a cookie that an upstream sets comes back neither to it nor to anybody."""
    connection = await behind(FAST_LANE=lane)
    fields = "".join(f"{name}: {text}\r\n" for name, text in FORGED.items()).encode()
    for _ in range(2):
        if target == "/addEvent":
            body = b'{"name": "a", "userId": "1"}'
            head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
            answer = await connection.ask(get(target, fields + head, method="POST") + body)
        else:
            answer = await connection.ask(get(target, fields))
        assert answer[0] == 200
        assert CANARY not in str(answer[1])
    assert len(seen) >= 2
    for headers in seen:
        assert CANARY not in str(headers)
        assert not {*FORGED} - {"User-Agent", "Connection"} & {*headers}
