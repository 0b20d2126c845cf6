"""A collector of traces, played by a test: as much of OTLP over HTTP as there is to spans."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

KINDS = {
    Span.SPAN_KIND_SERVER: "server",
    Span.SPAN_KIND_CLIENT: "client",
    Span.SPAN_KIND_CONSUMER: "consumer",
    Span.SPAN_KIND_INTERNAL: "internal",
}


@dataclass
class Seen:
    """A span as it came. Ids are in hexadecimal; *parent* is empty for the first of a trace."""

    trace: str
    id: str
    parent: str
    name: str
    kind: str
    error: bool
    start: int
    end: int
    told: Mapping[str, object]
    resource: Mapping[str, object]

    @property
    def traceparent(self) -> str:
        """What tells others to go on with it, but for the flags at its end."""
        return f"00-{self.trace}-{self.id}-"


class Collector:
    """
    Attributes:
        url: its base URL.
        spans: that came, in the order in which they ended.
        raw: all bytes that came, heads included.
    """

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Seen] = []
        self.raw = b""

    async def take(self, request: web.Request) -> web.Response:
        """Keep the spans of one request."""
        body = await request.read()
        self.raw += repr(request.raw_headers).encode() + body
        assert request.content_type == "application/x-protobuf"
        sent = ExportTraceServiceRequest.FromString(body)
        for group in sent.resource_spans:
            resource = read(group.resource.attributes)
            for scope in group.scope_spans:
                self.spans += [seen(span, resource) for span in scope.spans]
        return web.Response(body=b"", content_type="application/x-protobuf")

    def named(self, name: str) -> list[Seen]:
        """The spans of that name."""
        return [span for span in self.spans if span.name == name]


def seen(span: Span, resource: Mapping[str, object]) -> Seen:
    """*span* in plain words."""
    assert not span.trace_state
    assert not span.events
    return Seen(
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.name,
        KINDS[span.kind],
        bool(span.status.code),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        read(span.attributes),
        resource,
    )


def read(attributes: object) -> Mapping[str, object]:
    """Attributes by name."""
    found: dict[str, object] = {}
    for one in attributes:  # type: ignore[attr-defined]
        assert isinstance(one, KeyValue)
        found[one.key] = getattr(one.value, str(one.value.WhichOneof("value")))
    return found


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """A collector that works, below a path of its host. Who sends to it from here ends when it has all."""
    found, app = Collector(), web.Application()
    app.router.add_post("/otlp/v1/traces", found.take)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.tracing.LAST_WORDS", 20.0)  # they may take long on a busy machine
        async with TestServer(app) as server:
            found.url = str(server.make_url("/otlp"))
            yield found


def tree(spans: list[Seen]) -> str:
    """*spans* of one trace, one a line, indented below their parents in the order of their beginnings."""
    known = {span.id for span in spans}

    def below(parent: str, depth: int) -> list[str]:
        lines = []
        for span in sorted(spans, key=lambda one: one.start):
            if span.parent == parent or (not parent and span.parent not in known):
                lines += ["  " * depth + span.name, *below(span.id, depth + 1)]
        return lines

    return "\n".join(below("", 0))
