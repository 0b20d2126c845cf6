"""One attempt over the shared session, by what the upstream does to it on the wire."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import tracemalloc
from collections.abc import Mapping
from typing import TypeAlias
from urllib.parse import unquote

import aiohttp
import pytest
from aiohttp import http_parser
from aiohttp.abc import AbstractResolver, ResolveResult

from strategies import Verdict
from tests.upstream.asking import (
    Recorder,
    acquired,
    ask,
    attempt_for,
    body_of,
    complaint_of,
    failure_of,
    transport_to,
    turns,
    until,
    within,
)
from tests.upstream.conftest import Serve
from tests.upstream.scripted import (
    Action,
    Connection,
    answer,
    close,
    half_close,
    hang,
    read,
    repeat,
    reset,
    send,
    send_in_pieces,
    tell,
    wait,
)
from upstream.call import Answer, Call
from upstream.payloads import work
from upstream.spec import UpstreamSpec
from upstream.transport import judge

Rows: TypeAlias = Mapping[str, list[Action]]

pytestmark = pytest.mark.usefixtures("path")

OK = answer(b'{"time": 1}')
ALSO_OK = answer(b'{"time": 2}')
PLAIN = [read(), send(ALSO_OK), hang()]


def head(*headers: str, status: str = "200 OK") -> bytes:
    """The head of an answer, without a word about its length."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


def rows(table: Rows) -> pytest.MarkDecorator:
    """One test for each row of a table of scripts."""
    return pytest.mark.parametrize("script", list(table.values()), ids=list(table))


CHUNKED = head("Transfer-Encoding: chunked")
PROMISED = head("Content-Length: 100")


class StubResolver(AbstractResolver):
    """Knows one thing about every name."""

    def __init__(self, known: Exception | str) -> None:
        self._known = known

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if isinstance(self._known, Exception):
            raise self._known
        return [ResolveResult(hostname=host, host=self._known, port=port, family=family, proto=0, flags=0)]

    async def close(self) -> None:
        """Nothing to close."""


def replace_resolver(session: aiohttp.ClientSession, known: Exception | str) -> None:
    """From now on *session* asks no name server."""
    assert isinstance(session.connector, aiohttp.TCPConnector)
    session.connector._resolver = StubResolver(known)


class TestBeforeTheRequest:
    @pytest.mark.fault(37)
    async def test_connection_refused(self, session: aiohttp.ClientSession) -> None:
        """Nobody listens on the port: `connect_error`."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        assert failure_of(await ask(session, f"http://127.0.0.1:{port}")) == "connect_error"

    @pytest.mark.fault(46)
    async def test_the_name_is_unknown(self, session: aiohttp.ClientSession) -> None:
        """The resolver has no address: `dns_error`, not a mere `connect_error`."""
        replace_resolver(session, OSError(None, "Domain name not found"))
        assert failure_of(await ask(session, "http://upstream.test")) == "dns_error"

    async def test_the_name_is_known(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """The counter-check of the row above: with an address the same stub lets the call through."""
        upstream = await serve(PLAIN)
        replace_resolver(session, "127.0.0.1")
        assert body_of(await ask(session, f"http://upstream.test:{upstream.port}")) == b'{"time": 2}'

    async def test_https_spoken_to_a_plain_server(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """The server answers a TLS greeting in plain text: `tls_error`."""
        upstream = await serve([send(head(status="400 Bad Request")), close()])
        outcome = await ask(session, upstream.url.replace("http:", "https:"))
        assert failure_of(outcome) == "tls_error"

    @pytest.mark.fault(43)
    async def test_a_certificate_that_nobody_vouches_for(
        self, session: aiohttp.ClientSession, serve: Serve, self_signed: ssl.SSLContext
    ) -> None:
        """A self-signed certificate is refused before anything is sent: `tls_error`."""
        upstream = await serve(PLAIN, tls=self_signed)
        outcome = await ask(session, upstream.url)
        assert failure_of(outcome) == "tls_error"
        assert upstream.requests == []

    @rows({"closes": [close()], "resets": [reset()]})
    async def test_the_server_hangs_up_in_the_tls_handshake(
        self, session: aiohttp.ClientSession, serve: Serve, script: list[Action]
    ) -> None:
        """A connection that ends before TLS stands was never a connection: `connect_error`."""
        upstream = await serve(script)
        outcome = await ask(session, upstream.url.replace("http:", "https:"))
        assert failure_of(outcome) == "connect_error"


RESETS: Rows = {
    "accepts and closes at once": [close()],
    "accepts and resets at once": [reset()],
    "reads the request and closes": [read(), close()],
    "reads the request and resets": [read(), reset()],
    "reads the request and half-closes": [read(), half_close(), hang()],
    "closes in the middle of the head": [read(), send(b"HTTP/1.1 200 OK\r\nContent-"), close()],
    "closes after the head": [read(), send(PROMISED), close()],
    "closes in the middle of the body": [read(), send(PROMISED + b'{"time"'), close()],
    "resets in the middle of the body": [read(), send(PROMISED + b'{"time"'), reset()],
    "promises more than it sends": [read(), send(PROMISED + b'{"time": 1}'), close()],
    "closes in the middle of a chunk": [read(), send(CHUNKED + b'9\r\n{"time"'), close()],
    "closes before the last chunk": [read(), send(CHUNKED + b'b\r\n{"time": 1}\r\n'), close()],
}

MALFORMED: Rows = {
    "no status line": [read(), send(b"HELLO\r\n\r\n"), hang()],
    "a status that is no number": [read(), send(head(status="abc OK")), hang()],
    "a status of two digits": [read(), send(head(status="99 OK")), hang()],
    "a status of four digits": [read(), send(head(status="1000 OK")), hang()],
    "a chunk size that is no number": [read(), send(CHUNKED + b"zz\r\n"), hang()],
    "a negative chunk size": [read(), send(CHUNKED + b"-1\r\nab\r\n"), hang()],
    "a chunk longer than its size": [read(), send(CHUNKED + b'2\r\n{"time": 1}\r\n0\r\n\r\n'), hang()],
    "NUL in a header": [read(), send(answer(b'{"time": 1}', "X-Bad: a\0b")), hang()],
    "space before the colon": [read(), send(answer(b'{"time": 1}', "X-Bad : a")), hang()],
    "a negative length": [read(), send(head("Content-Length: -1")), hang()],
    "a length and chunks": [
        read(),
        send(head("Content-Length: 11", "Transfer-Encoding: chunked") + b'b\r\n{"time": 1}\r\n0\r\n\r\n'),
        hang(),
    ],
    "a field of 20 kB": [read(), send(answer(b'{"time": 1}', "X-Large: " + "a" * 20_000)), hang()],
    "a field without end": [read(), send(b"HTTP/1.1 200 OK\r\nX:"), repeat(send(b"a" * 1000))],
    "200 headers": [read(), send(answer(b'{"time": 1}', *(f"X-{i}: a" for i in range(200)))), hang()],
    "headers without end": [read(), send(b"HTTP/1.1 200 OK\r\n"), repeat(send(b"X-Y: z\r\n" * 20))],
    "corrupt gzip": [read(), send(answer(b"this is no gzip", "Content-Encoding: gzip")), hang()],
}


class TestBrokenOnTheWire:
    @pytest.mark.fault(39, 40, 42, 55)
    @rows(RESETS)
    async def test_the_connection_ends_too_early(
        self, session: aiohttp.ClientSession, serve: Serve, script: list[Action]
    ) -> None:
        """An answer that stops short, at whatever point, is a `reset`, and the next call is a clean one."""
        upstream = await serve(script, PLAIN)
        assert failure_of(await ask(session, upstream.url)) == "reset"
        assert body_of(await ask(session, upstream.url)) == b'{"time": 2}'
        await until(lambda: acquired(session) == 0)

    @pytest.mark.fault(51, 56)
    @rows(MALFORMED)
    async def test_the_answer_is_not_http(
        self, session: aiohttp.ClientSession, serve: Serve, script: list[Action]
    ) -> None:
        """What no parser should accept is a `protocol_error`; its connection is dropped."""
        upstream = await serve(script, PLAIN)
        assert failure_of(await ask(session, upstream.url)) == "protocol_error"
        await within(upstream.gone.wait())
        assert body_of(await ask(session, upstream.url)) == b'{"time": 2}'
        assert upstream.connections == 2

    @pytest.mark.fault(56)
    @pytest.mark.parametrize(
        ("start", "rest"),
        [
            (CHUNKED, b"zz\r\n"),
            (CHUNKED + b'5\r\n{"tim\r\n', b"zz\r\n"),
            (CHUNKED + b'5\r\n{"tim\r\n', b"2\r\nabcdefgh\r\n"),
            (head("Content-Encoding: gzip", "Content-Length: 99") + gzip.compress(b"1")[:10], b"x" * 89),
        ],
        ids=["first chunk size", "later chunk size", "chunk longer than its size", "corrupt gzip"],
    )
    async def test_the_body_turns_bad_after_the_head_arrived(
        self, session: aiohttp.ClientSession, serve: Serve, start: bytes, rest: bytes
    ) -> None:
        """A body that is malformed in a later packet ends the attempt at once: `protocol_error`, no hang."""
        go_on = asyncio.Event()
        upstream = await serve([read(), send(start), wait(go_on), send(rest), hang()])
        attempt = asyncio.ensure_future(ask(session, upstream.url))
        await until(lambda: len(upstream.requests) == 1)
        await turns()
        go_on.set()
        await until(lambda: upstream.gone.is_set() or attempt.done())
        await turns()
        ended = attempt.done()
        attempt.cancel()
        await asyncio.wait([attempt])
        assert ended, "the connection is closed and the attempt still waits for its body"
        assert failure_of(attempt.result()) == "protocol_error"

    @pytest.mark.parametrize(
        ("script", "words"),
        [
            ([read(), send(answer(b"no gzip", "Content-Encoding: gzip")), hang()], "gzip"),
            ([read(), send(PROMISED), close()], "100"),
            ([read(), send(answer(b"", *["X: y"] * 200)), hang()], "Too many headers"),
        ],
        ids=["corrupt gzip", "short body", "200 headers"],
    )
    async def test_the_detail_says_what_is_wrong(
        self, session: aiohttp.ClientSession, serve: Serve, script: list[Action], words: str
    ) -> None:
        """The detail names the fault on one short line."""
        upstream = await serve(script)
        outcome = await ask(session, upstream.url)
        failure_of(outcome)
        assert words in outcome.detail
        assert len(outcome.detail) <= 200
        assert "\n" not in outcome.detail

    async def test_the_detail_does_not_quote_the_upstreams_headers(
        self, session: aiohttp.ClientSession, serve: Serve
    ) -> None:
        """A head that stops short is not handed on to a log or a caller, secrets and all."""
        upstream = await serve([read(), send(b"HTTP/1.1 200 OK\r\nX-Secret: hunter2\r\nContent-"), close()])
        outcome = await ask(session, upstream.url)
        assert failure_of(outcome) == "reset"
        assert "hunter2" not in outcome.detail
        assert "RawResponseMessage" not in outcome.detail


class TestTooLarge:
    @pytest.mark.fault(52)
    async def test_a_length_over_the_limit_is_believed(
        self, session: aiohttp.ClientSession, serve: Serve
    ) -> None:
        """10 GB are announced: the attempt ends without a byte of the body, and the connection with it."""
        upstream = await serve([read(), send(head("Content-Length: 10000000000")), hang()])
        assert failure_of(await ask(session, upstream.url)) == "too_large"
        await within(upstream.gone.wait())

    async def test_a_body_of_the_limit_is_taken(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """The limit itself is within the limit."""
        upstream = await serve(PLAIN)
        assert body_of(await ask(session, upstream.url, max_body=11)) == b'{"time": 2}'

    @pytest.mark.parametrize(
        "data", [ALSO_OK, CHUNKED + b'b\r\n{"time": 2}\r\n0\r\n\r\n'], ids=["with a length", "chunked"]
    )
    async def test_one_byte_over_the_limit(
        self, session: aiohttp.ClientSession, serve: Serve, data: bytes
    ) -> None:
        """One byte more is too many, whether it was announced or not."""
        upstream = await serve([read(), send(data), hang()])
        assert failure_of(await ask(session, upstream.url, max_body=10)) == "too_large"

    @pytest.mark.fault(53)
    @rows(
        {
            "chunks": [read(), send(CHUNKED), repeat(send(b"3e8\r\n" + b" " * 1000 + b"\r\n"))],
            "until it closes": [read(), send(head()), repeat(send(b" " * 1000))],
        }
    )
    async def test_a_body_without_end(
        self, session: aiohttp.ClientSession, serve: Serve, script: list[Action]
    ) -> None:
        """Reading stops at the limit and the upstream is hung up on."""
        upstream = await serve(script)
        assert failure_of(await ask(session, upstream.url)) == "too_large"
        await within(upstream.gone.wait())
        await until(lambda: acquired(session) == 0)

    @pytest.mark.fault(54)
    async def test_a_compression_bomb(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """The limit holds for the decoded body: 64 MiB of spaces in 64 kB never come to exist."""
        bomb = gzip.compress(b" " * 64 * 1024 * 1024)
        upstream = await serve([read(), send(answer(bomb, "Content-Encoding: gzip")), hang()])
        tracemalloc.start()
        try:
            outcome = await ask(session, upstream.url)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert failure_of(outcome) == "too_large"
        assert peak < 8 * 1024 * 1024


class TestJudged:
    @pytest.mark.parametrize("status", ["500 Internal Server Error", "503 X", "429 X", "201 X", "408 X"])
    async def test_any_status_but_200(
        self, session: aiohttp.ClientSession, serve: Serve, status: str
    ) -> None:
        """A complete answer, judged a failure, even with a valid payload, and its connection is kept."""
        upstream = await serve([read(), send(answer(status=status)), read(), send(OK), hang()])
        assert complaint_of(await ask(session, upstream.url)) == ("http_error", f"status {status[:3]}")
        assert body_of(await ask(session, upstream.url)) == b'{"time": 1}'
        assert upstream.connections == 1

    async def test_a_status_that_the_upstream_may_succeed_with(self) -> None:
        """Then the body decides, as with a 200."""
        spec = UpstreamSpec("parts", "http://upstream", work, statuses=frozenset({200, 206}))

        def judged(body: bytes) -> str:
            return judge(spec, attempt_for(), 0.0, 1.0, Answer(206, {}, body)).reason

        assert [judged(b'{"time": 1}'), judged(b"")] == ["success", "invalid_payload"]

    @pytest.mark.fault(69)
    @pytest.mark.parametrize("status", [400, 404, 409, 422, 499])
    async def test_a_4xx_teaches_nothing_about_the_upstream(
        self, session: aiohttp.ClientSession, serve: Serve, status: int
    ) -> None:
        """It is the upstream's word on the request: no success, and no failure of the upstream either."""
        upstream = await serve([read(), send(answer(status=f"{status} X")), hang()])
        outcome = await ask(session, upstream.url)
        assert (outcome.verdict, outcome.reason) == (Verdict.IGNORED, "http_error")
        assert outcome.detail == f"status {status}"

    @pytest.mark.fault(62)
    @pytest.mark.parametrize("location", ["/elsewhere", "http://169.254.169.254/latest", "http://[bad"])
    async def test_a_redirect_is_not_followed(
        self, session: aiohttp.ClientSession, serve: Serve, location: str
    ) -> None:
        """Wherever it points, the answer is an `http_error` and there is no second request."""
        redirect = answer(b"", f"Location: {location}", status="302 Found")
        upstream = await serve([repeat(read(), send(redirect))])
        assert complaint_of(await ask(session, upstream.url)) == ("http_error", "status 302")
        assert len(upstream.requests) == 1

    @pytest.mark.fault(57)
    @pytest.mark.parametrize(
        "body",
        [
            b"time: 1",
            b"<html>It works</html>",
            b"",
            b"[]",
            b'"time"',
            b"{}",
            b'{"time": true}',
            b'{"time":"1"}',
            b'{"time": null}',
            b'{"time": NaN}',
            b'{"time": Infinity}',
            b'{"time": 1e999}',
            b'\xef\xbb\xbf{"time": 1}',
            '{"time": 1}'.encode("utf-16"),
            b'{"time": 1, "x": "\xff"}',
            b'{"time": 1',
            b'{"time": 1}{"time": 2}',
            b'{"time": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b'{"time": ' + b"9" * 5_000_000 + b"}",
        ],
        ids=lambda body: repr(body[:24]),
    )
    async def test_a_200_without_a_valid_payload(
        self, session: aiohttp.ClientSession, serve: Serve, body: bytes
    ) -> None:
        """A complete answer that the rule refuses is an `invalid_payload`, however wild, never an error."""
        upstream = await serve([read(), send(answer(body)), hang()])
        reason, detail = complaint_of(await ask(session, upstream.url, max_body=8_000_000))
        assert reason == "invalid_payload"
        assert detail.startswith("the body ")


SUCCESSES: Rows = {
    "a length": [read(), send(OK), hang()],
    "a byte at a time": [read(), send_in_pieces(OK), hang()],
    "chunked": [read(), send(CHUNKED + b'4\r\n{"ti\r\n7\r\nme": 1}\r\n0\r\n\r\n'), hang()],
    "chunked, a byte at a time": [
        read(),
        send_in_pieces(CHUNKED + b'4\r\n{"ti\r\n7\r\nme": 1}\r\n0\r\n\r\n'),
        hang(),
    ],
    "until it closes": [read(), send(head() + b'{"time": 1}'), close()],
    "until it half-closes": [read(), send(head() + b'{"time": 1}'), half_close(), hang()],
    "HTTP/1.0": [read(), send(head().replace(b"1.1", b"1.0") + b'{"time": 1}'), close()],
    "100 Continue first": [read(), send(head(status="100 Continue") + OK), hang()],
    "early hints first": [read(), send(head("Link: </x>", status="103 Early Hints") * 5), send(OK), hang()],
    "gzip": [read(), send(answer(gzip.compress(b'{"time": 1}'), "Content-Encoding: gzip")), hang()],
    "a wrong media type": [read(), send(answer(b'{"time": 1}', "Content-Type: text/html")), hang()],
}


class TestSuccess:
    @pytest.mark.fault(42)
    @rows(SUCCESSES)
    async def test_ways_to_answer(
        self, session: aiohttp.ClientSession, serve: Serve, script: list[Action]
    ) -> None:
        """Each legal framing of the same payload gives the same success."""
        upstream = await serve(script)
        outcome = await ask(session, upstream.url)
        assert outcome.verdict is Verdict.SUCCESS
        assert body_of(outcome) == b'{"time": 1}'
        await until(lambda: acquired(session) == 0)


class TestAnswersNeverMix:
    def test_the_parser_is_the_one_in_c(self) -> None:
        """The other one forgets what follows a body, and its connection is used again."""
        assert http_parser.HttpResponseParser is not http_parser.HttpResponseParserPy

    @pytest.mark.fault(59)
    @rows(
        {
            "204": [
                read(),
                send(head("Content-Length: 11", status="204 No Content") + b'{"time": 1}'),
                hang(),
            ],
            "304": [
                read(),
                send(head("Content-Length: 11", status="304 Not Modified") + b'{"time": 1}'),
                hang(),
            ],
        }
    )
    async def test_a_body_where_none_belongs(
        self, session: aiohttp.ClientSession, serve: Serve, script: list[Action]
    ) -> None:
        """The body of a 204 or 304 makes no success, and is not taken for the next answer."""
        upstream = await serve(script, PLAIN)
        assert (await ask(session, upstream.url)).verdict is Verdict.FAILURE
        assert body_of(await ask(session, upstream.url)) == b'{"time": 2}'
        assert upstream.connections == 2

    @pytest.mark.fault(55, 56)
    @pytest.mark.parametrize(
        "extra",
        [b"junk", b"junk\r\n\r\n", answer(b'{"time": 666}')],
        ids=["junk", "line", "two answers"],
    )
    async def test_bytes_after_the_body(
        self, session: aiohttp.ClientSession, serve: Serve, extra: bytes
    ) -> None:
        """The connection is not used again: the next answer is the one to the next request."""
        upstream = await serve([read(), send(OK + extra), hang()], PLAIN)
        await ask(session, upstream.url)
        assert body_of(await ask(session, upstream.url)) == b'{"time": 2}'
        assert upstream.connections == 2

    @pytest.mark.fault(56, 68)
    @pytest.mark.parametrize(
        "extra",
        [b"junk", b"junk\r\n\r\n", answer(b'{"time": 666}'), OK[:30]],
        ids=["junk", "line", "an answer", "half an answer"],
    )
    async def test_bytes_on_an_idle_connection(
        self, session: aiohttp.ClientSession, serve: Serve, extra: bytes
    ) -> None:
        """What arrives between two requests answers neither: the next one goes out on a new connection."""
        idle, sent = asyncio.Event(), asyncio.Event()
        first = [read(), send(OK), wait(idle), send(extra), tell(sent), read(), send(OK), hang()]
        upstream = await serve(first, PLAIN)
        assert body_of(await ask(session, upstream.url)) == b'{"time": 1}'
        idle.set()
        await within(sent.wait())
        await turns()
        assert body_of(await ask(session, upstream.url)) == b'{"time": 2}'
        assert upstream.connections == 2
        assert len(upstream.requests) == 2

    @pytest.mark.fault(68)
    async def test_a_late_answer_to_a_cancelled_attempt(
        self, session: aiohttp.ClientSession, serve: Serve
    ) -> None:
        """An answer that nobody waits for any more reaches nobody."""
        given_up = asyncio.Event()
        upstream = await serve([read(), wait(given_up), send(OK), hang()], PLAIN)
        attempt = asyncio.ensure_future(ask(session, upstream.url))
        await until(lambda: len(upstream.requests) == 1)
        attempt.cancel()
        await asyncio.wait([attempt])
        given_up.set()
        assert body_of(await ask(session, upstream.url)) == b'{"time": 2}'

    @pytest.mark.fault(68)
    async def test_many_at_once(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """Each of fifty concurrent calls gets the answer to its own request."""

        async def echo(connection: Connection) -> None:
            number = upstream.requests[-1].line.split()[1].rpartition("/")[2]
            await send(answer(b'{"time": %d}' % int(number)))(connection)

        upstream = await serve([repeat(read(), echo)])
        for _ in range(2):
            calls = [Call(segments=(str(number),)) for number in range(50)]
            outcomes = await asyncio.gather(*(ask(session, upstream.url, call) for call in calls))
            assert [body_of(outcome) for outcome in outcomes] == [b'{"time": %d}' % n for n in range(50)]


class TestKeepAlive:
    async def test_a_connection_is_used_again(
        self, session: aiohttp.ClientSession, serve: Serve, recorder: Recorder
    ) -> None:
        """Two calls one after the other share a connection."""
        upstream = await serve([repeat(read(), send(OK))])
        for _ in range(2):
            body_of(await ask(session, upstream.url))
        assert upstream.connections == 1
        assert [state for _, state in recorder.connections] == ["opened", "reused"]

    async def test_a_new_connection_that_dies_is_not_tried_again(
        self, session: aiohttp.ClientSession, serve: Serve
    ) -> None:
        """One attempt is one request: nothing repeats it behind our back."""
        upstream = await serve([read(), close()])
        assert failure_of(await ask(session, upstream.url)) == "reset"
        assert (upstream.connections, len(upstream.requests)) == (1, 1)

    @pytest.mark.fault(41)
    @pytest.mark.parametrize("ending", [close(), reset()], ids=["closes", "resets"])
    async def test_a_used_connection_that_dies_is_not_tried_again(
        self, session: aiohttp.ClientSession, serve: Serve, ending: Action
    ) -> None:
        """A kept connection that ends at the next request is a plain `reset`: one attempt, one request."""
        upstream = await serve([read(), send(OK), read(), ending], PLAIN)
        body_of(await ask(session, upstream.url))
        assert failure_of(await ask(session, upstream.url)) == "reset"
        assert (upstream.connections, len(upstream.requests)) == (1, 2)

    @pytest.mark.fault(41)
    @pytest.mark.parametrize("ending", [close(), reset()], ids=["closes", "resets"])
    async def test_a_connection_known_to_be_dead_is_not_used(
        self, session: aiohttp.ClientSession, serve: Serve, ending: Action
    ) -> None:
        """Closed by the server after its answer, and noticed: the next call opens a new one and is fine."""
        upstream = await serve([read(), send(OK), ending], PLAIN)
        body_of(await ask(session, upstream.url))
        await within(upstream.gone.wait())
        await turns()
        assert body_of(await ask(session, upstream.url)) == b'{"time": 2}'
        assert upstream.connections == 2

    async def test_connection_close_is_honoured(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """A server that says it will close is not asked again on that connection."""
        upstream = await serve([read(), send(answer(b'{"time": 1}', "Connection: close")), hang()], PLAIN)
        body_of(await ask(session, upstream.url))
        assert body_of(await ask(session, upstream.url)) == b'{"time": 2}'
        assert upstream.connections == 2


class TestWhatIsSent:
    async def test_a_plain_get(self, session: aiohttp.ClientSession, serve: Serve, path: str) -> None:
        """The URL as configured, and no header beyond these; only encodings that can always be decoded."""
        upstream = await serve(PLAIN)
        await ask(session, f"{upstream.url}/api/work?x=1")
        assert upstream.requests[0].line == "GET /api/work?x=1 HTTP/1.1"
        assert upstream.requests[0].headers == {
            "host": f"127.0.0.1:{upstream.port}",
            "accept": "application/json",
            "user-agent": "hedgerow",
            "accept-encoding": "gzip, deflate" if path == "session" else "identity",
        }

    async def test_cookies_are_not_sent_back(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """One answer changes nothing about the next call."""
        upstream = await serve([repeat(read(), send(answer(b'{"time": 1}', "Set-Cookie: a=b; Path=/")))])
        for _ in range(2):
            body_of(await ask(session, upstream.url))
        assert "cookie" not in upstream.requests[1].headers

    async def test_a_body_goes_out_as_json(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """A call with a body says what it is and how long it is."""
        upstream = await serve(PLAIN)
        await ask(session, upstream.url, Call(method="POST", segments=("add",), body=b'{"a": 1}'))
        [received] = upstream.requests
        assert received.line == "POST /add HTTP/1.1"
        assert received.body == b'{"a": 1}'
        assert received.headers["content-type"] == "application/json"

    async def test_headers_of_a_call(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """They go out besides those of every call, and instead of those by the same name."""
        upstream = await serve(PLAIN)
        await ask(session, upstream.url, Call(headers=(("Range", "bytes=0-9"), ("Accept", "*/*"))))
        sent = upstream.requests[0].headers
        assert (sent["range"], sent["accept"], sent["user-agent"]) == ("bytes=0-9", "*/*", "hedgerow")

    async def test_headers_beside_a_body(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """The body still says what it is."""
        upstream = await serve(PLAIN)
        await ask(session, upstream.url, Call("POST", body=b"{}", headers=(("If-Match", '"1"'),)))
        sent = upstream.requests[0].headers
        assert (sent["if-match"], sent["content-type"]) == ('"1"', "application/json")

    async def test_segments_cannot_climb(self, session: aiohttp.ClientSession, serve: Serve) -> None:
        """Slashes and dots in a segment are encoded: the request stays below the URL of its upstream."""
        upstream = await serve(PLAIN)
        call = Call(method="POST", segments=("a/b", "..", "ü"), body=b"{}")
        await ask(session, f"{upstream.url}/api", call)
        assert upstream.requests[0].line == "POST /api/a%2Fb/%2E%2E/%C3%BC HTTP/1.1"

    @pytest.mark.parametrize(
        "segment",
        ["event-1", "/etc/passwd", "..", ".", "../../admin", "%2e%2e%2f", "a?b=1#c", "a b", "a:b@c", "\\"],
    )
    async def test_a_segment_arrives_as_it_was_meant(
        self, session: aiohttp.ClientSession, serve: Serve, segment: str
    ) -> None:
        """Whatever a caller's text is, the upstream sees one segment, which decodes to that text."""
        upstream = await serve(PLAIN)
        await ask(session, f"{upstream.url}/api", Call(segments=("events", segment)))
        path = upstream.requests[0].line.split()[1]
        assert path.startswith("/api/events/")
        sent = path.removeprefix("/api/events/")
        assert unquote(sent) == segment
        assert sent not in (".", "..")
        assert not set(sent) & set("/?#\\")


async def test_a_bug_is_not_made_into_a_fault(session: aiohttp.ClientSession, serve: Serve) -> None:
    """What is not the upstream's doing is raised: a session that is closed says so."""
    upstream = await serve(PLAIN)
    transport = transport_to(session, upstream.url)
    await session.close()
    with pytest.raises(RuntimeError, match="closed"):
        await within(transport(attempt_for()))
