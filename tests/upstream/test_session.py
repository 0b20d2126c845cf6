"""The shared session's settings, and the table from aiohttp's exceptions to our reasons."""

from __future__ import annotations

import asyncio
import ssl
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp import http_exceptions
from aioresponses import aioresponses

from strategies import Failed
from tests.upstream.asking import Recorder, ask, body_of, complaint_of, failure_of, until, within
from tests.upstream.conftest import Serve
from tests.upstream.scripted import answer, hang, read, repeat, send, wait
from upstream.faults import TooLarge, detail_of, reason_of
from upstream.session import PoolLimits, open_session

URL = "http://upstream.test/api/work"
KEY = Mock(host="upstream.test", port=80, is_ssl=False, ssl=True)
INFO = Mock(real_url=URL)


def payload_error(cause: Exception | None) -> aiohttp.ClientPayloadError:
    """A broken body, with what aiohttp says is the reason."""
    error = aiohttp.ClientPayloadError("Response payload is not completed" if cause is None else str(cause))
    error.__cause__ = cause
    return error


EXCEPTIONS: list[tuple[Exception, str]] = [
    (aiohttp.ClientConnectorDNSError(KEY, OSError(None, "Name or service not known")), "dns_error"),
    (aiohttp.ClientConnectorCertificateError(KEY, ssl.CertificateError("self-signed")), "tls_error"),
    (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "wrong version number")), "tls_error"),
    (aiohttp.ServerFingerprintMismatch(b"a", b"b", "upstream.test", 443), "protocol_error"),
    (ssl.SSLError(1, "decryption failed or bad record mac"), "tls_error"),
    (aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(111, "Connection refused")), "connect_error"),
    (aiohttp.ClientConnectorError(KEY, OSError(101, "Network is unreachable")), "connect_error"),
    (aiohttp.ServerDisconnectedError(), "reset"),
    (aiohttp.ClientOSError(104, "Connection reset by peer"), "reset"),
    (ConnectionResetError(104, "Connection reset by peer"), "reset"),
    (BrokenPipeError(32, "Broken pipe"), "reset"),
    (payload_error(None), "reset"),
    (payload_error(http_exceptions.ContentEncodingError("Can not decode gzip")), "protocol_error"),
    (aiohttp.ClientResponseError(INFO, (), status=400, message="Bad status line"), "protocol_error"),
    (aiohttp.ClientConnectionResetError("Cannot write to closing transport"), "reset"),
    (aiohttp.ClientError("of a kind yet unknown"), "protocol_error"),
    (http_exceptions.TransferEncodingError("zz"), "protocol_error"),
    (TooLarge("the body is over the limit of 10 bytes"), "too_large"),
]


def name_of(parameter: object) -> str:
    """How a row is called."""
    return type(parameter).__name__ if isinstance(parameter, Exception) else str(parameter)


class TestTheTable:
    @pytest.mark.parametrize(("error", "reason"), EXCEPTIONS, ids=name_of)
    async def test_whatever_the_session_raises(
        self, mocked: aioresponses, session: aiohttp.ClientSession, error: Exception, reason: str
    ) -> None:
        """Each of aiohttp's exceptions comes back as an outcome with its reason, and is not raised."""
        mocked.get(URL, exception=error)
        outcome = await ask(session, URL)
        assert isinstance(outcome, Failed)
        assert (outcome.reason, outcome.detail) == (reason, detail_of(error))
        assert outcome.detail

    @pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), AssertionError("a bug")])
    async def test_a_bug_is_raised(
        self, mocked: aioresponses, session: aiohttp.ClientSession, error: Exception
    ) -> None:
        """What no upstream can cause is not hidden among the faults."""
        mocked.get(URL, exception=error)
        with pytest.raises(type(error), match="a bug"):
            await ask(session, URL)

    @pytest.mark.parametrize("error", [TooLarge("x" * 10_000), TooLarge("one\ntwo"), TooLarge()])
    def test_the_detail_is_one_short_line(self, error: Exception) -> None:
        """Whatever the error says, a log line stays a line, and it is never empty."""
        assert 0 < len(detail_of(error)) <= 200
        assert "\n" not in detail_of(error)

    def test_every_client_error_has_a_reason(self) -> None:
        """Also those that a later aiohttp may add: the table has a last row."""

        class Unheard(aiohttp.ClientError):
            """A class that the table does not name."""

        assert reason_of(Unheard()) == "protocol_error"


class TestMocked:
    async def test_the_verdict_follows_status_and_body(
        self, mocked: aioresponses, session: aiohttp.ClientSession
    ) -> None:
        """Three calls over one session: refused, invalid, and valid at last."""
        mocked.get(URL, status=503, body=b'{"time": 1}')
        mocked.get(URL, status=200, body=b'{"time": "soon"}')
        mocked.get(URL, status=200, body=b'{"time": 160}')
        assert complaint_of(await ask(session, URL)) == ("http_error", "status 503")
        assert complaint_of(await ask(session, URL))[0] == "invalid_payload"
        assert body_of(await ask(session, URL)) == b'{"time": 160}'


class TestSettings:
    async def test_time_has_one_owner(self, session: aiohttp.ClientSession) -> None:
        """None of aiohttp's own limits is set: it would round them, and answer for us."""
        limits = session.timeout
        assert (limits.total, limits.connect, limits.sock_connect, limits.sock_read) == (None,) * 4

    async def test_no_answer_changes_another_call(self, session: aiohttp.ClientSession) -> None:
        """No cookies, no proxies from the environment, no silent retry."""
        assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)
        assert session.trust_env is False
        assert session._retry_connection is False

    async def test_the_pool_is_as_large_as_configured(self, recorder: Recorder) -> None:
        """Both limits and the idle time arrive at the connector."""
        limits = PoolLimits(connections=7, per_upstream=3, keepalive=5.0)
        async with open_session(limits, recorder) as session:
            connector = session.connector
            assert isinstance(connector, aiohttp.TCPConnector)
            assert (connector.limit, connector.limit_per_host) == (7, 3)
            assert connector._keepalive_timeout == 5.0

    async def test_the_pool_admits_no_more_than_its_limit(self, serve: Serve, recorder: Recorder) -> None:
        """With two connections at most, the third call waits for one of them and reuses it."""
        go_on = asyncio.Event()
        upstream = await serve([read(), wait(go_on), send(answer()), repeat(read(), send(answer()))])
        async with open_session(PoolLimits(connections=2), recorder) as session:
            calls = asyncio.gather(*(ask(session, upstream.url) for _ in range(3)))
            await until(lambda: len(upstream.requests) == 2)
            assert upstream.connections == 2
            go_on.set()
            for outcome in await within(calls):
                body_of(outcome)
        assert upstream.connections == 2
        states = [state for _, state in recorder.connections]
        assert (states.count("opened"), states.count("reused")) == (2, 1)

    async def test_proxies_of_the_environment_are_ignored(
        self, serve: Serve, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A proxy variable does not send our calls elsewhere."""
        elsewhere, upstream = await serve([hang()]), await serve([read(), send(answer()), hang()])
        monkeypatch.setenv("http_proxy", elsewhere.url)
        async with open_session(PoolLimits(), recorder) as session:
            body_of(await ask(session, upstream.url))
        assert elsewhere.connections == 0


class TestConnectionsAreCounted:
    async def test_opened_and_reused(
        self, session: aiohttp.ClientSession, serve: Serve, recorder: Recorder
    ) -> None:
        """A connection is counted under the upstream of the attempt that opened or reused it."""
        upstream = await serve([repeat(read(), send(answer()))])
        for _ in range(3):
            body_of(await ask(session, upstream.url))
        assert recorder.connections == [
            ("upstream", "opened"),
            ("upstream", "reused"),
            ("upstream", "reused"),
        ]

    async def test_a_call_that_is_no_attempt(
        self, session: aiohttp.ClientSession, serve: Serve, recorder: Recorder
    ) -> None:
        """Whoever else uses the session is counted as other."""
        upstream = await serve([repeat(read(), send(answer()))])
        async with session.get(upstream.url) as response:
            assert response.status == 200
        assert recorder.connections == [("other", "opened")]

    async def test_a_connection_that_never_stood(
        self, session: aiohttp.ClientSession, recorder: Recorder
    ) -> None:
        """What could not be opened is not counted as opened."""
        assert failure_of(await ask(session, "http://127.0.0.1:1")) == "connect_error"
        assert recorder.connections == []
