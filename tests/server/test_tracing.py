"""Traces tell of requests, attempts and jobs, and no more; a collector that is ill costs nobody."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from server.__main__ import EXIT_CONFIG, main
from server.lifespan import Trial
from server.tracing import QUIET, ROOM, Bounded, Sender
from tests.downloads.whole import receiver, whole
from tests.job_store.stores import eventually
from tests.server.collector import Collector, Seen, collector, tree
from tests.server.raw import Connection, get, servers
from tests.server.test_error_reports import process

CANARY = "canary-7f3a"
ROOT = Path(__file__).parents[2]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{PARENT}-01"
WAYS = pytest.mark.parametrize("fields", [b"", b"Content-Length: 0\r\n"], ids=["direct", "aiohttp"])
ALLOWED = {
    "error.type",
    "hedgerow.attempt",
    "hedgerow.files",
    "hedgerow.hedge",
    "hedgerow.outcome",
    "hedgerow.run",
    "hedgerow.verdict",
    "http.request.method",
    "http.response.status_code",
    "http.route",
    "peer.service",
}
"""All that spans tell."""


class Upstream:
    """
    Answers whatever is asked, after a script of statuses; 0 never answers. The last one repeats.

    Attributes:
        told: the ``traceparent`` of each request.
        headers: all headers of each request, as one text.
    """

    def __init__(self) -> None:
        self.url = ""
        self.script = [200]
        self.told: list[str] = []
        self.headers: list[str] = []
        self.asked = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        status = self.script[min(len(self.told), len(self.script) - 1)]
        self.told += request.headers.getall("traceparent", [""])
        self.headers.append(repr(request.headers))
        self.asked.set()
        if not status:
            await asyncio.Event().wait()
        return web.json_response({"time": 1, "success": True}, status=status)


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """What is asked."""
    found, app = Upstream(), web.Application()
    app.router.add_route("*", "/{any:.*}", found.answer)
    async with TestServer(app, handler_cancellation=True) as server:
        found.url = str(server.make_url(""))
        yield found


@asynccontextmanager
async def traced(upstream: Upstream, **environ: str) -> AsyncIterator[tuple[Connection, Collector]]:
    """A connection to a server that traces. The collector has all spans when the block of it has ended."""
    urls = {"WORK_API_URL": f"{upstream.url}/work", "EVENT_API_BASE_URL": upstream.url}
    async with collector() as taking:
        found = {**urls, "OTEL_EXPORTER_OTLP_ENDPOINT": taking.url, **environ}
        async with servers(**found) as serve:
            yield await (await serve()).connect(), taking


def all_told(spans: Sequence[Seen]) -> set[str]:
    """The names of all attributes."""
    return {name for span in spans for name in span.told}


@WAYS
@pytest.mark.parametrize("lane", ["on", "off"])
async def test_a_request_is_a_span_with_its_attempts_below_it(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, fields: bytes, lane: str
) -> None:
    """Each upstream call was told the span of its own attempt, and the log line has the id of the trace."""
    caplog.set_level(logging.INFO)
    async with traced(upstream, FAST_LANE=lane) as (connection, taking):
        status, headers, body = await connection.ask(get("/api/all?timeout=9000", fields))
    assert (status, body) == (200, b'[{"time": 1, "success": true}, {"time": 1, "success": true}]')
    assert "traceparent" not in headers
    [request] = taking.named("GET /api/all")
    attempts = taking.named("GET work")
    assert tree(taking.spans) == "GET /api/all\n  GET work\n  GET work"
    assert (request.kind, request.error, request.parent) == ("server", False, "")
    assert request.told == {
        "http.request.method": "GET",
        "http.route": "/api/all",
        "http.response.status_code": 200,
        "hedgerow.outcome": "ok",
    }
    assert sorted(one[:-2] for one in upstream.told) == sorted(span.traceparent for span in attempts)
    assert all(int(one[-2:], 16) & 1 for one in upstream.told)
    assert sorted(span.told["hedgerow.attempt"] for span in attempts) == [0, 1]  # type: ignore[type-var]
    for span in attempts:
        assert (span.kind, span.error) == ("client", False)
        assert span.told["hedgerow.verdict"] == span.told["hedgerow.outcome"] == "success"
        assert request.start <= span.start <= span.end <= request.end
    [line] = [vars(one) for one in caplog.records if one.name == "hedgerow.access"]
    assert line["trace_id"] == request.trace


async def test_an_attempt_tells_what_became_of_it(upstream: Upstream) -> None:
    """One failed, so that two more were fired; one of these won, the other was not needed."""
    upstream.script = [500, 200, 0]
    async with traced(upstream) as (connection, taking):
        assert (await connection.ask(get("/api/smart")))[0] == 200
    first, *others = sorted(taking.named("GET work"), key=lambda one: str(one.told["hedgerow.attempt"]))
    assert first.error
    assert first.told == {
        "http.request.method": "GET",
        "http.response.status_code": 500,
        "peer.service": "work",
        "hedgerow.attempt": 0,
        "hedgerow.hedge": False,
        "hedgerow.outcome": "http_error",
        "hedgerow.verdict": "failure",
        "error.type": "http_error",
    }
    assert sorted((one.error, one.told["hedgerow.outcome"]) for one in others) == [
        (False, "cancelled"),
        (False, "success"),
    ]


async def test_a_call_with_a_body_tells_its_span_too(upstream: Upstream) -> None:
    """It goes another way than plain GETs."""
    body = b'{"name": "a", "userId": "1"}'
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    async with traced(upstream) as (connection, taking):
        assert (await connection.ask(get("/addEvent", head, method="POST") + body))[0] == 200
    [attempt] = taking.named("POST events")
    assert [one[:-2] for one in upstream.told] == [attempt.traceparent]
    assert tree(taking.spans) == "POST /addEvent\n  POST events"


@WAYS
async def test_a_trace_of_the_callers_is_gone_on_with(upstream: Upstream, fields: bytes) -> None:
    """With the sender as parent; what it says in ``tracestate`` goes no further."""
    given = f"TraceParent:  {GIVEN} \r\ntracestate: a={CANARY}\r\n".encode()
    async with traced(upstream) as (connection, taking):
        await connection.ask(get("/api/first", fields + given))
    [request] = taking.named("GET /api/first")
    assert (request.trace, request.parent) == (TRACE, PARENT)
    assert {span.trace for span in taking.spans} == {TRACE}
    assert CANARY.encode() not in taking.raw
    assert CANARY not in str(upstream.headers)


@pytest.mark.fault(32)
@WAYS
@pytest.mark.parametrize(
    "traces",
    [
        [b"00-00000000000000000000000000000000-b7ad6b7169203331-01"],
        [b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
        [b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
        [b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-"],
        [b"00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"],
        [b"00-0af7651916cd43dd"],
        [b"\xff" * 55],
        [b"0" * 3000],
        [b""],
        [GIVEN.encode(), GIVEN.encode()],
        [GIVEN.encode(), b"00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
    ],
    ids=["zero trace", "zero span", "ff", "longer", "upper", "cut", "bytes", "long", "empty", "twice", "two"],
)
async def test_a_malformed_trace_context_begins_a_new_trace(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, fields: bytes, traces: list[bytes]
) -> None:
    """And the caller is answered as ever, without a word in the log."""
    given = b"".join(b"traceparent: %b\r\n" % one for one in traces)
    async with traced(upstream) as (connection, taking):
        status, headers, _ = await connection.ask(get("/api/first", fields + given))
    assert status == 200
    assert "traceparent" not in {name.lower() for name in headers}
    [request] = taking.named("GET /api/first")
    assert request.parent == ""
    assert request.trace not in (TRACE, "0" * 32)
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


@WAYS
async def test_a_trace_that_its_caller_does_not_collect_is_not_collected(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, fields: bytes
) -> None:
    """The upstream is told the same, and the log has the id of the trace."""
    caplog.set_level(logging.INFO)
    given = f"traceparent: {GIVEN[:-1]}0\r\n".encode()
    async with traced(upstream) as (connection, taking):
        await connection.ask(get("/api/first", fields + given))
    assert taking.spans == []
    assert {(one[3:35], one[-2:]) for one in upstream.told} == {(TRACE, "00")}
    [line] = [vars(one) for one in caplog.records if one.name == "hedgerow.access"]
    assert line["trace_id"] == TRACE


async def test_a_share_of_the_traces_may_be_collected(upstream: Upstream) -> None:
    """Of those that begin here; of callers who want theirs, all are."""
    async with traced(upstream, OTEL_TRACES_SAMPLER_ARG="0") as (connection, taking):
        for _ in range(20):
            await connection.ask(get("/api/first"))
        assert (await connection.ask(get("/api/first", f"traceparent: {GIVEN}\r\n".encode())))[0] == 200
    assert {span.trace for span in taking.spans} == {TRACE}


async def test_probes_and_pages_are_not_traced(upstream: Upstream) -> None:
    """They would be most of it. What is not found, and what is refused, is."""
    async with traced(upstream, OTEL_SERVICE_NAME="shop") as (connection, taking):
        for path in ("/health", "/ready", "/metrics", "/", "/docs", "/docs/start.js", "/openapi.json"):
            assert (await connection.ask(get(path)))[0] == 200, path
        for path in ("/nothing", "/api/first?timeout=x"):
            await connection.ask(get(path))
        await connection.ask(get("/api/first", method="DELETE"))
    assert [(span.name, span.told["http.response.status_code"], span.error) for span in taking.spans] == [
        ("GET", 404, False),
        ("GET /api/first", 400, False),
        ("DELETE", 405, False),
    ]
    assert taking.spans[0].resource["service.name"] == "shop"


async def test_an_error_of_ours_and_a_caller_who_leaves_are_told(upstream: Upstream) -> None:
    """The first by its code; the second got no status."""
    upstream.script = [500, 500, 0]
    async with traced(upstream) as (connection, taking):
        assert (await connection.ask(get("/api/all")))[0] == 500
        upstream.asked.clear()
        connection.writer.write(get("/api/all"))
        await upstream.asked.wait()
        connection.writer.close()
        await connection.writer.wait_closed()
    first, second = taking.named("GET /api/all")
    assert (first.error, first.told["error.type"], first.told["hedgerow.outcome"]) == (
        True,
        "no_success",
        "no_success",
    )
    assert (second.error, second.told["hedgerow.outcome"]) == (False, "caller_gone")
    assert "http.response.status_code" not in second.told


@pytest.mark.fault(101)
async def test_nothing_that_a_caller_chose_is_in_a_span(upstream: Upstream) -> None:
    """Not the path of what is not there, no query, header, address or body; only names that we know."""
    secret = (
        f"Authorization: {CANARY}\r\nCookie: {CANARY}\r\nX-Request-Id: {CANARY}\r\nUser-Agent: {CANARY}\r\n"
    )
    secret += f"Origin: https://{CANARY}.example\r\nX-Forwarded-For: 203.0.113.77\r\n"
    body = f'{{"name": "{CANARY}", "userId": "{CANARY}"}}'.encode()
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    async with traced(upstream) as (connection, taking):
        for path in (f"/{CANARY}", f"/api/all?a={CANARY}", f"/getEventsByUserId/{CANARY}?b={CANARY}"):
            await connection.ask(get(path, secret.encode()))
        await connection.ask(get("/addEvent", head + secret.encode(), method="POST") + body)
    assert len(taking.spans) > 6
    assert all_told(taking.spans) <= ALLOWED
    for kept in (CANARY, "203.0.113.77", "127.0.0.1"):
        assert kept.encode() not in taking.raw.partition(b"Content-Length")[2]


async def test_the_work_on_a_download_joins_the_trace_of_the_request_that_asked_for_it(
    tmp_path: Path,
) -> None:
    """Also its webhook, whose receiver is a stranger and is told of no trace."""
    async with collector() as taking, receiver() as hook:
        environ = {"DATA_DIR": str(tmp_path), "OTEL_EXPORTER_OTLP_ENDPOINT": taking.url}
        async with whole(Trial(policy=hook.policy), WEBHOOK_HTTP="on", **environ) as site:
            job_id = await site.job(70000, callback=hook.url, traceparent=GIVEN)
            await site.ended(job_id)
            await site.callback(job_id, "delivered")
    mine = [span for span in taking.spans if span.trace == TRACE]
    steps = "\n".join(["      GET files"] * len([one for one in mine if one.name == "GET files"]))
    assert tree(mine) == (
        "POST /v1/download/initiate\n  work on job\n    work on file\n" + steps + "\n  send webhook"
    )
    [job] = [span for span in mine if span.name == "work on job"]
    assert (job.kind, job.told) == (
        "consumer",
        {"hedgerow.run": 1, "hedgerow.files": 1, "hedgerow.outcome": "completed"},
    )
    assert all_told(taking.spans) <= ALLOWED
    assert job_id.encode() not in taking.raw
    assert "traceparent" not in {name.lower() for name in hook.posted[0].headers}


async def test_the_trace_of_a_job_goes_on_in_another_process(tmp_path: Path) -> None:
    """The request came to a server that does not work on jobs; a worker does, which is started later."""
    async with collector() as taking:

        async def job_told() -> list[Seen]:
            return taking.named("work on job")

        environ = {"DATA_DIR": str(tmp_path / "data"), "OTEL_EXPORTER_OTLP_ENDPOINT": taking.url}
        async with whole(DOWNLOAD_WORKERS="off", **environ) as site:
            answer = await site.initiate(70000, traceparent=GIVEN)
            quick = {"DOWNLOAD_DELAY_ENABLED": "false", "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "server", "worker"),
                cwd=tmp_path,
                env={**quick, **environ},
                stderr=PIPE,
            )
            try:
                found = await site.ended(answer.told["jobId"])
                await eventually(job_told)  # what is left when it ends has a second, and may be lost
                worker.send_signal(signal.SIGTERM)
                await worker.communicate()
            finally:
                if worker.returncode is None:
                    worker.kill()
                    await worker.communicate()
        assert (found["status"], worker.returncode) == ("completed", 0)
    mine = [span for span in taking.spans if span.trace == TRACE]
    assert tree(mine).startswith(
        "POST /v1/download/initiate\n  work on job\n    work on file\n      GET files"
    )
    [initiate], [job] = (
        [span for span in mine if span.name == name] for name in ("POST /v1/download/initiate", "work on job")
    )
    assert initiate.resource["service.instance.id"] != job.resource["service.instance.id"]


@pytest.mark.fault(88)
async def test_each_worker_sends_its_own(tmp_path: Path) -> None:
    """A thread that sends does not survive a fork."""
    async with collector() as taking:
        environ = {"DOWNLOADS": "off", "SIMULATOR_LATENCY": "constant:1", "SIMULATOR_HANG": "0"}
        both: set[object] = set()
        async with (
            asyncio.timeout(30.0),
            process(
                *("-m", "server", "--port", "0", "--workers", "2"),
                cwd=tmp_path,
                OTEL_EXPORTER_OTLP_ENDPOINT=taking.url,
                **environ,
            ) as url,
        ):
            while len(both) < 2:
                async with aiohttp.ClientSession() as session, session.get(f"{url}/api/first") as response:
                    await response.read()
                both = {span.resource["service.instance.id"] for span in taking.spans}
    assert {"GET /api/first", "GET work"} == {span.name for span in taking.spans}


def hang(sock: socket.socket) -> None:
    """Take a connection and say nothing."""


def garbage(sock: socket.socket) -> None:
    """Take connections and speak no HTTP."""
    _speak(sock, b"\x00\xff" * 1000 + b"\r\n\r\n")


def refuse(sock: socket.socket) -> None:
    """Answer that it is a bad time."""
    _speak(sock, b"HTTP/1.1 503 No\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n")


def endless(sock: socket.socket) -> None:
    """Answer without an end."""
    _speak(sock, b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536)


def _speak(sock: socket.socket, first: bytes, then: bytes = b"") -> None:
    try:
        while True:
            connection, _ = sock.accept()
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(first)
                    while then:
                        connection.sendall(then)
                except OSError:
                    pass
    except OSError:
        pass  # the test is over


@pytest.mark.fault(104)
@pytest.mark.parametrize("ill", [hang, garbage, refuse, endless, None])
async def test_a_collector_that_is_ill_delays_no_answer_and_no_end(
    upstream: Upstream,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    ill: Callable[[socket.socket], None] | None,
) -> None:
    """Spans are lost, and the log says so in a line at most."""
    patience = 20.0  # longer than a busy machine stands still
    monkeypatch.setattr("server.tracing.PATIENCE", patience)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{sock.getsockname()[1]}"}
        if ill is None:
            sock.close()
        else:
            threading.Thread(target=ill, args=(sock,), daemon=True).start()
        slowest = 0.0
        async with servers(WORK_API_URL=upstream.url, ACCESS_LOG="off", **environ) as serve:
            connection = await (await serve()).connect()
            for _ in range(300):  # more than a batch of spans
                began = time.monotonic()
                assert (await connection.ask(get("/api/first?timeout=30000")))[0] == 200
                slowest = max(slowest, time.monotonic() - began)
            began = time.monotonic()
        took = time.monotonic() - began
        if ill is not None:
            sock.shutdown(socket.SHUT_RDWR)
    assert max(slowest, took) < 0.8 * patience  # who waited for the collector would wait that long
    said = [one for one in caplog.records if one.levelno >= logging.WARNING or one.exc_info]
    assert {one.name for one in said} <= {"hedgerow.tracing"}
    assert len(said) <= 1


class Slow(SpanExporter):
    """Sends nothing until it may; then *results*, the last one for ever."""

    def __init__(self, *results: SpanExportResult) -> None:
        self.may = threading.Event()
        self.results = list(results or [SpanExportResult.SUCCESS])
        self.sent = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        assert self.may.wait(30.0)
        self.sent += len(spans)
        return self.results.pop(0) if len(self.results) > 1 else self.results[0]


@pytest.mark.fault(104)
def test_spans_that_find_no_room_are_dropped_and_counted() -> None:
    """Memory is bounded while the collector hangs; what was kept is sent when it is well."""
    slow, counted = Slow(), {"sent": 0, "lost": 0}

    def count(outcome: str, number: int) -> None:
        counted[outcome] += number

    provider = TracerProvider(shutdown_on_exit=False)
    sender = Sender(slow, count, lambda: 0.0)
    provider.add_span_processor(Bounded(sender, count))
    tracer = provider.get_tracer("test")
    total = 3 * ROOM
    for _ in range(total):
        tracer.start_span("a").end()
    assert ROOM <= total - counted["lost"] < 2 * ROOM  # a batch may have been on its way
    slow.may.set()
    provider.shutdown()
    assert counted["sent"] == slow.sent == total - counted["lost"]


def test_that_the_collector_is_away_is_said_now_and_then_and_that_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not for each batch, nor each time that it comes and goes."""
    caplog.set_level(logging.INFO)
    now = 0.0
    good, bad = SpanExportResult.SUCCESS, SpanExportResult.FAILURE
    slow = Slow(good, bad, bad, good, bad, good, bad, bad)
    slow.may.set()
    sender = Sender(slow, lambda outcome, number: None, lambda: now)
    said = []
    for at in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, QUIET + 1.0, QUIET + 2.0):
        now = at
        sender.export([])
        said.append([record.levelname for record in caplog.records])
        caplog.clear()
    assert said == [[], ["WARNING"], [], ["INFO"], [], [], ["WARNING"], []]


def test_without_a_collector_nothing_that_traces_is_even_imported() -> None:
    """What there is of OpenTelemetry then, redis and the job queue have imported themselves."""
    text = (
        "import asyncio, sys, server.__main__ as main, server.app, server.worker\n"
        "settings, table = main.configure(main.parse([]))\n"
        "app = server.app.create_app(settings, table)\n"
        "async def run():\n"
        "    app.freeze(); await app.startup(); await app.cleanup()\n"
        "asyncio.run(run())\n"
        "ours = ('opentelemetry.sdk.trace', 'opentelemetry.exporter', 'google.protobuf', 'server.tracing')\n"
        "print([name for name in sys.modules if name.startswith(ours)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=ROOT, env={"DOWNLOADS": "off"}, check=True, capture_output=True
    )
    assert done.stdout == b"[]\n"


@pytest.mark.parametrize(
    "given",
    ["collector:4318", "ftp://collector", "http://", "http://c:99999", "http://u:p@c", "http://c/?a=b"],
)
def test_a_bad_endpoint_stops_the_start_with_2(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line that names the variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", given)
    assert main([]) == EXIT_CONFIG
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("OTEL_EXPORTER_OTLP_ENDPOINT: Must be http:// or https://, a host")
