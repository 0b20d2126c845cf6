"""The routes that are not an upstream's: welcome, health, readiness, metrics, and the API's documentation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

import orjson
from aiohttp import web
from marshmallow import Schema
from marshmallow import fields as f
from prometheus_async.aio import time as timed
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from server.exchange import EXCHANGE
from server.lifecycle import Lifecycle
from server.openapi import Reply, build_document, document, problem
from server.telemetry import Telemetry

Check: TypeAlias = Callable[[], Awaitable[bool]]
"""Whether one thing that we need is well."""

SYSTEM = "system"


class WelcomeSchema(Schema):
    """What ``GET /`` says."""

    message = f.String(required=True)
    links = f.Dict(keys=f.String(), values=f.String(), required=True)


class HealthSchema(Schema):
    """Whether what we need is well."""

    status = f.String(required=True, metadata={"example": "healthy"})
    checks = f.Dict(
        keys=f.String(), values=f.String(), required=True, metadata={"example": {"session": "ok"}}
    )


class ReadySchema(Schema):
    """Whether new callers are welcome, and how each upstream stands."""

    ready = f.Boolean(required=True)
    draining = f.Boolean(required=True)
    upstreams = f.Dict(required=True)


def json_response(payload: Any, status: int = 200, content_type: str = "application/json") -> web.Response:
    """*payload* as JSON."""
    return web.Response(body=orjson.dumps(payload), status=status, content_type=content_type)


def add_pages(
    app: web.Application,
    *,
    welcome: str,
    lifecycle: Lifecycle,
    telemetry: Telemetry,
    gather: Callable[[CollectorRegistry], Awaitable[CollectorRegistry]],
    checks: Mapping[str, Check],
    upstreams: Callable[[], Mapping[str, Any]],
) -> None:
    """
    Bind the routes of this module to *app*.

    Args:
        gather: from this process's metrics to those that ``/metrics`` shows.
        checks: what ``/health`` asks, by name.
        upstreams: how each upstream stands now, for ``/ready``.
    """
    add = app.router.add_get

    async def index(request: web.Request) -> web.Response:
        request[EXCHANGE].route = "index"
        links = {"docs": "/docs", "openapi": "/openapi.json", "health": "/health", "metrics": "/metrics"}
        return json_response({"message": welcome, "links": links})

    async def health(request: web.Request) -> web.Response:
        request[EXCHANGE].route = "health"
        found = {name: "ok" if await check() else "error" for name, check in checks.items()}
        well = "error" not in found.values()
        status = "healthy" if well else "unhealthy"
        return json_response({"status": status, "checks": found}, status=200 if well else 503)

    async def ready(request: web.Request) -> web.Response:
        request[EXCHANGE].route = "ready"
        told = {"ready": lifecycle.ready, "draining": lifecycle.draining, "upstreams": upstreams()}
        return json_response(told, status=200 if lifecycle.ready else 503)

    async def metrics(request: web.Request) -> web.Response:
        request[EXCHANGE].route = "metrics"
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        # As a header, because aiohttp's content_type takes no parameters.
        registry = await timed(telemetry.scrape_seconds, gather(telemetry.registry))
        return web.Response(body=encode(registry), headers={"Content-Type": content_type})

    @cache
    def openapi_json() -> bytes:
        return orjson.dumps(build_document(app))

    async def openapi(request: web.Request) -> web.Response:
        request[EXCHANGE].route = "openapi"
        return web.Response(body=openapi_json(), content_type="application/json")

    async def swagger(request: web.Request) -> web.Response:
        request[EXCHANGE].route = "docs"
        return web.Response(text=PAGE, content_type="text/html", headers={"Content-Security-Policy": POLICY})

    async def asset(request: web.Request) -> web.Response:
        request[EXCHANGE].route = "docs"
        found = read_asset(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        body, content_type = found
        return web.Response(
            body=body, content_type=content_type, headers={"Cache-Control": "public, max-age=3600"}
        )

    for path, handler, summary, replies in (
        (
            "/",
            index,
            "A greeting, with links.",
            {
                200: Reply("The greeting.", WelcomeSchema),
                429: problem("Too many requests; `Retry-After` says when to come again.", "Retry-After"),
            },
        ),
        (
            "/health",
            health,
            "Whether what the server needs is well.",
            {200: Reply("It is.", HealthSchema), 503: Reply("Something is not.", HealthSchema)},
        ),
        (
            "/ready",
            ready,
            "Whether new callers are welcome, and how each upstream stands.",
            {200: Reply("They are.", ReadySchema), 503: Reply("Not now.", ReadySchema)},
        ),
        (
            "/metrics",
            metrics,
            "Prometheus metrics.",
            {200: Reply("The metrics.", {"type": "string"}, None, "text/plain")},
        ),
        (
            "/openapi.json",
            openapi,
            "This document.",
            {200: Reply("OpenAPI 3.1.", {"type": "object"})},
        ),
    ):
        add(path, document(handler, tag=SYSTEM, summary=summary, replies=replies))
    add("/openapi", openapi)
    add("/docs", swagger)
    add("/docs/{name}", asset)


# No inline script, so that the page keeps a strict policy; 'data:' is for the icons inside Swagger UI's CSS.
POLICY = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Hedgerow API</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = b"""window.ui = SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, tryItOutEnabled: true, validatorUrl: null
});
"""
ASSETS = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}


@cache
def read_asset(name: str) -> tuple[bytes, str] | None:
    """A file of Swagger UI, by name, from a fixed list: no path that a caller invents reaches the disk."""
    if name == "start.js":
        return START, "text/javascript"
    if name not in ASSETS:
        return None
    return (files("swagger_ui") / "static" / name).read_bytes(), ASSETS[name]
