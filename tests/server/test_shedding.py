"""Refusals as a caller on a socket sees them: cheap, in the common form, and never on the wrong request."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from server.app import SHEDDING
from server.arrival import Arrival
from server.front import PRIVATE, FrontProtocol
from tests.described import described
from tests.server.raw import Serve, get, servers, until


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server with the given settings."""
    async with servers(LOAD_SHEDDING="on") as start:
        yield start


def is_refusal(status: int, headers: dict[str, str], body: bytes) -> bool:
    """Whether this is a refusal, and a complete one."""
    told = json.loads(body) if headers["Content-Type"] == "application/problem+json" else {}
    return (status, told.get("code")) == (503, "overloaded") and headers["Retry-After"] in ("1", "2", "3")


async def test_a_refusal_is_as_the_openapi_document_says(serve: Serve) -> None:
    server = await serve()
    connection = await server.connect()
    _, _, document = await connection.ask(get("/openapi.json"))
    server.full()
    for path in ("/api/all", "/api/first", "/api/within-timeout", "/api/smart", "/getUsers"):
        status, headers, body = await connection.ask(get(path))
        assert is_refusal(status, headers, body)
        told = (status, headers["Content-Type"], json.loads(body))
        described(json.loads(document), path, "get", told)


async def test_a_refusal_is_made_of_bytes_and_the_connection_stays_good(
    serve: Serve, parsed: list[bytes]
) -> None:
    """aiohttp's parser never hears of it; the next request on the same connection is answered."""
    server = await serve()
    connection = await server.connect()
    server.full()
    for _ in range(3):
        assert is_refusal(*await connection.ask(get("/api/first?timeout=5000")))
    assert parsed == []
    server.full(full=False)
    status, _, body = await connection.ask(get("/api/first?timeout=5000"))
    assert status == 200
    assert "time" in json.loads(body)
    assert server.in_flight == 0
    assert await server.metric('hedgerow_shed_total{reason="wait"}') == 3


async def test_both_refusals_say_the_same(serve: Serve) -> None:
    """The one made of bytes and the one made by a handler differ in nothing but the lot and the time."""
    server = await serve(CORS_ORIGINS="https://a.example,https://b.example")
    server.full()
    fields = b"X-Request-Id: given.1\r\nOrigin: https://b.example\r\n"
    quick = await (await server.connect()).ask(get("/getEventsByUserId/7?timeout=9", fields))
    slow = await (await server.connect()).ask(get("/getEventsByUserId/7?timeout=9", fields + b"Expect:\r\n"))
    assert is_refusal(*quick)
    for headers in (quick[1], slow[1]):
        assert headers.pop("Retry-After") in "123"
        assert headers.pop("Date").endswith("GMT")
    assert quick == slow
    assert quick[1]["X-Request-Id"] == "given.1"
    assert quick[1]["Access-Control-Allow-Origin"] == "https://b.example"
    assert json.loads(quick[2])["instance"] == "/getEventsByUserId/7"
    assert json.loads(quick[2])["requestId"] == "given.1"


@pytest.mark.parametrize("given", [b"", b"X-Request-Id: a b\r\n", b"X-Request-Id: " + b"x" * 129 + b"\r\n"])
async def test_a_refusal_has_an_id_of_its_own(serve: Serve, given: bytes) -> None:
    """A new one each time, when the caller gave none or one that is not well-formed."""
    server = await serve()
    server.full()
    connection = await server.connect()
    ids = set()
    for _ in range(2):
        _, headers, body = await connection.ask(get("/api/all", given))
        assert json.loads(body)["requestId"] == headers["X-Request-Id"]
        ids.add(headers["X-Request-Id"])
    assert len(ids) == 2
    assert all(len(one) == 36 for one in ids)


@pytest.mark.fault(78)
@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/metrics", "/", "/docs", "/openapi.json", "/api/nothing", "/api/allx"]
)
async def test_what_is_not_upstream_work_is_always_answered(serve: Serve, path: str) -> None:
    """Whoever watches the server sees it under load too."""
    server = await serve()
    server.full()
    connection = await server.connect()
    assert is_refusal(*await connection.ask(get("/api/all")))
    status, _, _ = await connection.ask(get(path))
    assert status == (404 if path.startswith("/api/") else 200)


BODY = b'{"name": "n", "date": "2020", "user_id": 1}'
ODD = {
    "a POST": (
        b"POST /addEvent HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
    ),
    "a GET with a body": get("/api/all", b"Content-Length: 2\r\n") + b"xx",
    "a GET with a body that looks like an end": get("/api/all", b"Content-Length: 4\r\n") + b"\r\n\r\n",
    "HTTP/1.0": get("/api/all", version="1.0"),
    "a caller who wants the connection closed": get("/api/all", b"Connection: close\r\n"),
    "an upgrade": get("/api/all", b"Connection: upgrade\r\nUpgrade: foo\r\n"),
    "an expectation": get("/api/all", b"Expect: \r\n"),
    "an escaped path": get("/api/%61ll"),
    "an absolute target": get("http://x/api/all"),
    "a blank line first": b"\r\n" + get("/api/all"),
}


@pytest.mark.parametrize("name", ODD)
async def test_odd_requests_are_refused_by_a_handler(serve: Serve, parsed: list[bytes], name: str) -> None:
    """aiohttp parses whatever is not plain, and then it is refused all the same."""
    server = await serve()
    server.full()
    connection = await server.connect()
    assert is_refusal(*await connection.ask(ODD[name]))
    assert b"".join(parsed) == ODD[name]
    assert server.in_flight == 0


async def test_head_is_refused_and_a_preflight_is_not(serve: Serve) -> None:
    """Every method that would ask the upstream or may; what a browser asks first costs nothing."""
    server = await serve()
    server.full()
    connection = await server.connect()
    preflight = get("/api/all", b"Access-Control-Request-Method: GET\r\nOrigin: x\r\n", method="OPTIONS")
    assert (await connection.ask(preflight))[0] == 204
    connection.writer.write(get("/api/all", method="HEAD"))
    assert b" 503 " in await connection.reader.readline()


async def test_a_request_in_pieces_goes_to_the_parser_whole(serve: Serve, parsed: list[bytes]) -> None:
    """Even when its second piece looks like a request of its own."""
    server = await serve()
    server.full()
    connection = await server.connect()
    half = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Smuggled: "
    connection.writer.write(half)
    await until(lambda: parsed)
    status, _, body = await connection.ask(get("/api/all"))
    assert parsed == [half, get("/api/all")]
    assert status == 400 or json.loads(body)["status"] == "healthy"


async def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    """A refusal never overtakes the answer to a request before it."""
    server = await serve()
    server.full()
    connection = await server.connect()
    connection.writer.write(get("/health") + get("/api/all", b"X-Request-Id: two\r\n") + get("/ready"))
    assert b"healthy" in (await connection.answer())[2]
    second = await connection.answer()
    assert is_refusal(*second)
    assert second[1]["X-Request-Id"] == "two"
    assert b"draining" in (await connection.answer())[2]


async def test_a_request_behind_one_under_way_waits_for_it(serve: Serve) -> None:
    """The first was taken, the second is one too many: answered second all the same."""
    server = await serve(SIMULATOR_LATENCY="constant:50")
    connection = await server.connect()
    connection.writer.write(get("/api/first"))
    await until(lambda: server.in_flight)
    server.full()
    connection.writer.write(get("/api/first"))
    assert (await connection.answer())[0] == 200
    assert is_refusal(*await connection.answer())


async def test_a_body_is_no_request(serve: Serve, parsed: list[bytes]) -> None:
    """Bytes of a body that look like a plain GET are a body."""
    server = await serve()
    connection = await server.connect()
    inner = get("/api/all")
    head = b"POST /addEvent HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection.writer.write(head + b"Content-Length: %d\r\n\r\n" % len(inner))
    await until(lambda: server.in_flight)
    server.full()
    status, _, body = await connection.ask(inner)
    assert status == 400
    assert json.loads(body)["code"] != "overloaded"
    assert is_refusal(*await connection.ask(inner))


async def test_a_caller_who_leaves_gives_its_place_back(serve: Serve) -> None:
    """Whether its request was answered or not."""
    server = await serve(SIMULATOR_LATENCY="constant:60000")
    connection = await server.connect()
    connection.writer.write(get("/api/first?timeout=30000"))
    await until(lambda: server.in_flight)
    connection.writer.close()
    await until(lambda: not server.in_flight)


@pytest.mark.parametrize("raw", [get("/api/all?timeout=x"), get("/api/all", b"A : b\r\n")])
async def test_a_bad_request_gives_its_place_back(serve: Serve, raw: bytes) -> None:
    """Whoever refused it."""
    server = await serve()
    assert (await (await server.connect()).ask(raw))[0] == 400
    assert server.in_flight == 0


async def test_a_loop_that_is_behind_refuses_what_came_too_late(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By how long a request has waited in the kernel: so long that no answer could be in time."""
    server = await serve()
    connection = await server.connect()
    assert (await connection.ask(get("/api/first")))[0] == 200
    monkeypatch.setattr(Arrival, "age", lambda arrival: 0.020)
    assert (await connection.ask(get("/api/first?timeout=5000")))[0] == 200
    assert is_refusal(*await connection.ask(get("/api/first?a=b&timeout=22")))
    assert await server.metric('hedgerow_shed_total{reason="age"}') == 1


async def test_off_means_off(serve: Serve) -> None:
    """Without load shedding there is no gate, and everybody is taken."""
    server = await serve(LOAD_SHEDDING="off")
    assert SHEDDING not in server.app
    assert (await (await server.connect()).ask(get("/api/first")))[0] == 200


def test_aiohttp_has_the_private_names_that_we_use() -> None:
    """A new aiohttp in which they are gone, or which hands requests over otherwise, fails here first."""
    for name in PRIVATE:
        assert hasattr(web.RequestHandler, name), name
    handle = inspect.signature(web.RequestHandler._handle_request)
    assert list(handle.parameters) == ["self", "request", "start_time", "request_handler"]
    assert inspect.iscoroutinefunction(web.RequestHandler._handle_request)


async def test_the_private_names_mean_what_they_meant(serve: Serve, connections: list[FrontProtocol]) -> None:
    """An idle connection has a pending ``_waiter`` and nothing else."""
    server = await serve()
    connection = await server.connect()
    assert (await connection.ask(get("/health")))[0] == 200
    (protocol,) = connections
    await until(lambda: protocol._waiter is not None)
    assert protocol._waiter is not None
    assert not protocol._waiter.done()
    assert not protocol._messages
    assert not protocol._request_in_progress
    before = protocol._next_keepalive_close_time
    server.full()
    assert is_refusal(*await connection.ask(get("/api/all")))
    assert protocol._next_keepalive_close_time >= before > 0
