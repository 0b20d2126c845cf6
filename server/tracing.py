"""Traces for a collector that takes OTLP over HTTP: spans of requests, of attempts at upstreams, of looks at
jobs and at their files, and of webhooks.

Only this room knows OpenTelemetry, and it is imported only when a collector is set. Nothing is patched and
nothing is global. What a span tells is said here: no path, query, header, address or id that a caller or an
upstream has chosen. A thread sends; whoever answers never waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import requests
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server import __version__
from server.direct import Direct
from server.edge import GONE, Edge, arrival
from server.exchange import Exchange, new_id
from server.handlers import FanOutHandler
from server.head import Head
from server.trace_context import CURRENT, Note, Task
from strategies import Answered, Attempt, Outcome, Verdict
from upstream.call import Answer, Call

log = logging.getLogger("hedgerow.tracing")

UNTRACED = frozenset(
    {"/", "/health", "/ready", "/metrics", "/openapi", "/openapi.json", "/docs", "/docs/{name}"}
)
"""Routes of probes and pages."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
KINDS = {Task.JOB: SpanKind.CONSUMER, Task.FILE: SpanKind.INTERNAL, Task.WEBHOOK: SpanKind.CLIENT}
LONGEST = 512
"""Characters of a ``traceparent`` that are looked at; beyond them the library would log a line."""

ROOM = 4096
"""Spans that may wait to be sent, about 5 kB each; beyond it they are dropped, never waited for."""
EVERY = 2.0
"""Seconds between two sendings, unless `BATCH` spans have come before."""
BATCH = 512
PATIENCE = 5.0
"""Seconds that the collector has for one batch."""
SWITCH = 0.0005
"""
Seconds for which the thread that sends may keep the interpreter from the loop. To encode a batch takes 30 ms;
with Python's own 5 ms a tenth of the loop's turns were 5 ms late meanwhile, with this 1 to 3 ms.
"""
LAST_WORDS = 1.0
"""Seconds for what still waits at the end."""
QUIET = 300.0
"""Seconds between two lines that say that the collector is away."""
MOST_READ = 4096
"""Bytes that are read of a collector's answer."""

_W3C = TraceContextTextMapPropagator()


class Live:
    """A `server.trace_context.Scope`: a span of ours, and the context in which its children begin."""

    __slots__ = ("context", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.context = set_span_in_context(span, Context())

    @property
    def traceparent(self) -> str:
        """See `server.trace_context.Scope`."""
        return _traceparent(self.span)

    @property
    def trace_id(self) -> str:
        """As logs and collectors write it."""
        return format_trace_id(self.span.get_span_context().trace_id)


class AttemptSpan:
    """An `upstream.trace.AttemptSpan`."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span) -> None:
        self._span = span
        self.traceparent = _traceparent(span)

    def end(self, reason: str, outcome: Outcome | None) -> None:
        """It has come to *outcome*; None: it was cut off."""
        span = self._span
        verdict = Verdict.IGNORED if outcome is None else outcome.verdict
        told: dict[str, str | int] = {"hedgerow.outcome": reason, "hedgerow.verdict": verdict.value}
        if isinstance(outcome, Answered) and isinstance(outcome.value, Answer):
            told["http.response.status_code"] = outcome.value.status
        if verdict is Verdict.FAILURE or reason == "bug":
            told["error.type"] = reason
            span.set_status(Status(StatusCode.ERROR))
        span.set_attributes(told)
        span.end()


class Tracing:
    """
    Begins spans.

    Args:
        tracer: makes them.
        clock: of arrivals, in seconds.
        wall: nanoseconds since 1970.
    """

    def __init__(
        self,
        tracer: Tracer,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self._tracer = tracer
        self._clock = clock
        self._wall = wall

    @contextmanager
    def request(
        self, method: str, route: str | None, traceparents: Sequence[str], arrived: float
    ) -> Iterator[None]:
        """
        The span of a request around the block, in which `TracedEdge` tells what became of it.

        Args:
            route: its path as the router writes it; None: there is no such route.
            traceparents: the headers of that name. One that is well-formed is gone on with.
            arrived: when it came, by the clock.
        """
        method = method if method in METHODS else "_OTHER"
        told = {"http.request.method": method}
        name = "HTTP" if method == "_OTHER" else method
        if route is not None:
            told["http.route"] = route
            name = f"{name} {route}"
        parent = _read(traceparents[0]) if len(traceparents) == 1 else Context()
        began = self._wall() - int((self._clock() - arrived) * 1e9)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, told, start_time=began)
        token = CURRENT.set(Live(span))
        try:
            yield
        finally:
            CURRENT.reset(token)
            span.end()

    @contextmanager
    def task(self, task: Task, parent: str = "", **facts: int) -> Iterator[Note]:
        """`server.trace_context.Spans`."""
        told = {f"hedgerow.{name}": number for name, number in facts.items()}
        context = _read(parent) if parent else _here()
        span = self._tracer.start_span(task.value, context, KINDS[task], told)
        noted = False

        def note(outcome: str, *, failed: bool = False) -> None:
            nonlocal noted
            noted = True
            span.set_attribute("hedgerow.outcome", outcome)
            if failed:
                span.set_status(Status(StatusCode.ERROR))

        token = CURRENT.set(Live(span))
        try:
            yield note
        except asyncio.CancelledError:
            if not noted:
                note("cancelled")
            raise
        except Exception as error:
            if not noted:
                note("error", failed=True)
                span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            CURRENT.reset(token)
            span.end()

    def begin(self, attempt: Attempt, call: Call) -> AttemptSpan | None:
        """An `upstream.trace.AttemptTracer`."""
        current = CURRENT.get()
        if not isinstance(current, Live):
            return None
        upstream = attempt.target.upstream
        told: dict[str, str | int] = {
            "http.request.method": call.method,
            "peer.service": upstream,
            "hedgerow.attempt": attempt.number,
            "hedgerow.hedge": attempt.hedge,
        }
        name = f"{call.method} {upstream}"
        return AttemptSpan(self._tracer.start_span(name, current.context, SpanKind.CLIENT, told))


def _read(traceparent: str) -> Context:
    """The context that *traceparent* tells of; an empty one if it is malformed."""
    return _W3C.extract({"traceparent": traceparent}, Context()) if len(traceparent) <= LONGEST else Context()


def _traceparent(span: Span) -> str:
    """What the library's propagator makes of *span*, for a fifth of its time."""
    told = span.get_span_context()
    ids = f"{format_trace_id(told.trace_id)}-{format_span_id(told.span_id)}"
    return f"00-{ids}-{told.trace_flags:02x}" if told.is_valid else ""


def _here() -> Context:
    current = CURRENT.get()
    return current.context if isinstance(current, Live) else Context()


# At the edge.


class TracedEdge(Edge):
    """Tells the span of a request what became of it, and the log line the trace."""

    def left(self, exchange: Exchange, method: str, path: str, status: int) -> None:
        """See `server.edge.Edge`."""
        super().left(exchange, method, path, status)
        current = CURRENT.get()
        if not isinstance(current, Live):
            return
        told: dict[str, str | int] = {"hedgerow.outcome": exchange.reason}
        if status != GONE:  # else none was sent
            told["http.response.status_code"] = status
        if status >= 500:
            told["error.type"] = exchange.reason
            current.span.set_status(Status(StatusCode.ERROR))
        current.span.set_attributes(told)


class TracedDirect(Direct):
    """
    The direct way, with a span for each request.

    Args:
        tracing: gives it, once the application has started.
    """

    def __init__(self, *args: Any, tracing: Callable[[], Tracing]) -> None:
        super().__init__(*args)
        self._tracing = tracing

    async def answer(self, handler: FanOutHandler, head: Head, arrived: float) -> tuple[bytes, bool]:
        """See `server.direct.Direct`."""
        with self._tracing().request("GET", head.path, head.values("traceparent"), arrived):
            return await super().answer(handler, head, arrived)


def trace_requests(tracing: Callable[[], Tracing], clock: Callable[[], float]) -> Middleware:
    """The middleware around the edge's, for requests that aiohttp has read."""

    @web.middleware
    async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
        resource = request.match_info.route.resource
        route = None if resource is None else resource.canonical
        if route in UNTRACED:
            return await handler(request)
        given = request.headers.getall("traceparent", [])
        with tracing().request(request.method, route, given, arrival(request, clock())):
            return await handler(request)

    return traced


class TraceIds(logging.Filter):
    """Gives each log line the id of its trace, by the name that OpenTelemetry has for it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Leaves nothing out."""
        current = CURRENT.get()
        if isinstance(current, Live):
            record.trace_id = current.trace_id
        return True


# Behind it.


class Sender(SpanExporter):
    """
    Sends spans, and says now and then, in a line, when that fails. Called by one thread.

    Args:
        sender: does the work.
        count: told ``sent`` or ``lost``, and how many.
        clock: in seconds.
    """

    def __init__(
        self, sender: SpanExporter, count: Callable[[str, int], None], clock: Callable[[], float]
    ) -> None:
        self._sender = sender
        self._count = count
        self._clock = clock
        self._said: float | None = None  # when it was last said that the collector is away
        self._away = False  # as far as the log knows
        self.taken = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send *spans*, or lose them."""
        self.taken += len(spans)
        result = self._sender.export(spans)
        sent = result is SpanExportResult.SUCCESS
        self._count("sent" if sent else "lost", len(spans))
        now = self._clock()
        if sent and self._away:
            self._away = False
            log.info("the collector takes spans again")
        elif not sent and (self._said is None or now - self._said >= QUIET):
            self._said, self._away = now, True
            log.warning("the collector does not take spans; they are lost, and requests go on")
        return result

    def shutdown(self) -> None:
        """Give up what is under way."""
        self._sender.shutdown()


class Bounded(BatchSpanProcessor):
    """Hands spans to the thread that sends them; drops, and counts, those that `ROOM` has no place for."""

    def __init__(self, sender: Sender, count: Callable[[str, int], None]) -> None:
        super().__init__(sender, ROOM, EVERY * 1000, BATCH, PATIENCE * 1000)
        self._sender = sender
        self._count = count
        self._given = 0

    def on_end(self, span: ReadableSpan) -> None:
        """*span* has ended."""
        if self._given - self._sender.taken >= ROOM:
            self._count("lost", 1)
            return
        self._given += 1
        super().on_end(span)


@asynccontextmanager
async def open_tracing(
    endpoint: str,
    service: str,
    share: float,
    count: Callable[[str, int], None],
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Tracing]:
    """
    Send spans until the block ends. The collector need not be there.

    A thread sends, which does not survive a fork. Leaving the block takes at most `LAST_WORDS`.

    Args:
        endpoint: the collector's base URL, to which the specification of OTLP adds ``/v1/traces``.
        service: what we are called there.
        share: of the traces that begin here; those that callers began follow what their callers decided.
        count: told what became of spans (``sent`` or ``lost``), and of how many.
        clock: of arrivals, in seconds.
    """
    for noisy in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # `Sender` says it, once
    url = f"{endpoint.rstrip('/')}/v1/traces"
    sender = Sender(OTLPSpanExporter(url, timeout=PATIENCE, session=_session()), count, clock)
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(share)),
        resource=Resource.create(
            {"service.name": service, "service.version": __version__, "service.instance.id": new_id()}
        ),
        shutdown_on_exit=False,
    )
    provider.add_span_processor(Bounded(sender, count))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    handlers, ids = logging.getLogger().handlers[:], TraceIds()
    for handler in handlers:
        handler.addFilter(ids)
    try:
        yield Tracing(provider.get_tracer("hedgerow", __version__), clock)
    finally:
        for handler in handlers:
            handler.removeFilter(ids)
        sys.setswitchinterval(interval)
        ending = threading.Thread(target=provider.shutdown, name="the last spans", daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, LAST_WORDS)
        if ending.is_alive():
            sender.shutdown()


def _session() -> requests.Session:
    """One that reads no more than the beginning of an answer: nobody looks at it, and it may have no end."""

    def read_some(response: requests.Response, *args: object, **kwargs: object) -> None:
        response.raw.read(MOST_READ)

    session = requests.Session()
    session.stream = True
    session.hooks["response"].append(read_some)
    return session
