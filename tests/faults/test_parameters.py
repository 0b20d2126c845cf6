"""Group B: what callers ask with. Most of it is shown where the parameters are tested, by the same marker."""

from __future__ import annotations

import orjson
import pytest

from tests.faults.conftest import problem
from tests.server.raw import Connection, Serve, get

ADD = b"POST /addEvent HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
WAYS = pytest.mark.parametrize("fields", [b"", b"Content-Length: 0\r\n"], ids=["direct", "aiohttp"])


@pytest.mark.fault(21)
async def test_the_default_timeout_is_documented(serve: Serve) -> None:
    """With the setting that makes it."""
    server = await serve(REQUEST_TIMEOUT_MS="1234")
    _, _, body = await (await server.connect()).ask(get("/openapi.json"))
    [timeout] = orjson.loads(body)["paths"]["/api/first"]["get"]["parameters"]
    assert timeout["required"] is False
    assert timeout["schema"]["maximum"] == 1234
    assert timeout["description"].endswith("1234 without it.")


@WAYS
@pytest.mark.fault(24)
async def test_a_header_named_timeout_means_nothing(serve: Serve, fields: bytes) -> None:
    """Neither alone nor beside the parameter."""
    connection = await (await serve(SIMULATOR_LATENCY="constant:20")).connect()
    fields += b"Timeout: 1\r\nX-Timeout: 1\r\n"
    for target in ("/api/first", "/api/first?timeout=5000"):
        assert (await connection.ask(get(target, fields)))[0] == 200


@WAYS
@pytest.mark.fault(28)
async def test_an_escape_that_is_no_text_is_refused_where_it_is_read(serve: Serve, fields: bytes) -> None:
    """In a path it makes another path, and in a parameter that nobody reads it is nothing."""
    connection = await (await serve()).connect()
    for escape in ("%00", "%ff", "%zz", "%", "%c0%af", "%ed%a0%80", "%f8%88%80%80%80"):
        await answers_to(connection, escape, fields)


async def answers_to(connection: Connection, escape: str, fields: bytes) -> None:
    """Ask with *escape* in each place."""
    for target, answer in (
        (f"/api/first?timeout={escape}", (400, "validation")),
        (f"/api/first?timeout=500{escape}", (400, "validation")),
        (f"/getEventsByUserId/{escape}", (400, "validation")),
        (f"/{escape}", (404, "not_found")),
        (f"/api/first{escape}", (404, "not_found")),
    ):
        assert problem(await connection.ask(get(target, fields))) == answer, target
    for target in (f"/api/first?{escape}={escape}", f"/api/first?timeout=9000&a={escape}"):
        assert (await connection.ask(get(target, fields)))[0] == 200, target


@WAYS
@pytest.mark.fault(26, 29)
async def test_what_nobody_reads_is_ignored(serve: Serve, fields: bytes) -> None:
    """Callers choose no strategy and no upstream, however they ask for one."""
    connection = await (await serve()).connect()
    target = "/api/first?strategy=nope&upstream=&upstream=a&attempts=99&TIMEOUT=x&timeout=9000"
    status, _, body = await connection.ask(get(target, fields))
    assert (status, body) == (200, b'{"time": 1}')


def wide(count: int) -> bytes:
    """An object with so many fields that nobody knows."""
    return b"{" + b",".join(b'"k%d":1' % n for n in range(count)) + b"}"


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (wide(90_000), (400, "validation")),
        (wide(50), (400, "validation")),
        (wide(1_000_000), (413, "too_large")),
        (b"[" * 1_000_000, (400, "invalid_json")),
        (b'{"name":' * 100_000, (400, "invalid_json")),
        (b'{"name": ' + b"9" * 5000 + b', "userId": "1"}', (400, "invalid_json")),
        (b'{"name": 1e999, "userId": "1"}', (400, "invalid_json")),
        (b'{"name": "\\ud800", "userId": "1"}', (400, "invalid_json")),
        (b'{"name": "a", "userId": "1", "name": 5}', (400, "validation")),
        (b'\xef\xbb\xbf{"name": "a", "userId": "1"}', (400, "invalid_json")),
        (b'{"name": "' + b"a" * 1_000_000 + b'", "userId": "1"}', (400, "validation")),
    ],
    ids=lambda one: one[:12] if isinstance(one, bytes) else "",
)
async def test_json_that_asks_for_much_work_gets_a_short_answer(
    serve: Serve, body: bytes, answer: tuple[int, str]
) -> None:
    """Its size does not depend on what was wrong how often."""
    connection = await (await serve()).connect()
    got = await connection.ask(ADD % len(body) + body)
    assert problem(got) == answer
    assert len(got[2]) < 8000


@pytest.mark.fault(30)
async def test_an_object_with_very_many_fields_is_not_looked_at_field_by_field(serve: Serve) -> None:
    """Ninety thousand would take the loop half a second."""
    connection = await (await serve()).connect()
    body = wide(90_000)
    _, _, told = await connection.ask(ADD % len(body) + body)
    assert orjson.loads(told)["errors"] == {"body": ["Must have at most 100 fields."]}
