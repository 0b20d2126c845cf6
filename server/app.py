"""The composition root: settings and the route table in, an aiohttp application out."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry

from server.access_log import AccessLog
from server.asking import Asking
from server.checks import health_checks, standing
from server.clients import Clients
from server.direct import Direct
from server.downloads.handlers import DownloadHandlers, Limits
from server.downloads.local_objects import LocalObjects
from server.downloads.object_routes import ObjectHandler, add_object_routes
from server.downloads.routes import add_download_routes
from server.downloads.signed_urls import UrlSigner
from server.edge import Edge, decorate_all, middleware
from server.events.handlers import UPSTREAM as EVENTS
from server.events.routes import add_event_routes
from server.gate import Gate
from server.handlers import FanOutHandler
from server.headers import Decorator
from server.lifecycle import Lifecycle
from server.lifespan import ALONE, DOWNLOADS, LIMITER, NO_TRIAL, TRACING, Shared, Trial, resources
from server.loop_lag import LoopLag
from server.openapi import Reply, document, problem
from server.pages import add_pages
from server.params import timeout_reader, timeout_schema
from server.plain import PlainAnswers
from server.rate_limits import limit_rates
from server.reserve import Appointments
from server.routes import Route, Table
from server.settings import Settings
from server.shedding import Refuser, Shedding
from server.telemetry import Telemetry
from strategies import Strategy

ROUTES = Path(__file__).with_name("routes.toml")
LIFECYCLE = web.AppKey("LIFECYCLE", Lifecycle)
TELEMETRY = web.AppKey("TELEMETRY", Telemetry)
SHEDDING = web.AppKey("SHEDDING", Shedding)
DIRECT = web.AppKey("DIRECT", Direct)
MAX_BODY = 1024 * 1024


def create_app(
    settings: Settings,
    table: Table,
    rng: random.Random | None = None,
    clock: Callable[[], float] = time.monotonic,
    shared: Shared = ALONE,
    trial: Trial = NO_TRIAL,
) -> web.Application:
    """
    The whole application.

    Args:
        settings, table: what `load_settings` and `load_table` gave.
        rng: the luck of the built-in simulator.
        clock: the loop's clock in seconds. uvloop's own ``time()`` is that clock cut to milliseconds and
            as old as the turn of the loop; ``time.monotonic`` is the same clock, exact.
        shared: what this process has in common with other workers.
        trial: what a test puts in.
    """
    rng = rng or random.Random(settings.simulator_seed)
    lifecycle, telemetry = Lifecycle(), Telemetry(CollectorRegistry())

    lag = LoopLag(telemetry.loop_lag.observe, clock)
    strategies: dict[str, Strategy[Any]] = {}
    app = web.Application(client_max_size=MAX_BODY)
    make_edge: type[Edge] = Edge
    make_direct: Callable[..., Direct] = Direct
    if settings.otel_endpoint is not None:  # its import takes 0.2 s
        from server.tracing import TracedDirect, TracedEdge, trace_requests

        make_edge, make_direct = TracedEdge, partial(TracedDirect, tracing=lambda: app[TRACING])
        app.middlewares.append(trace_requests(lambda: app[TRACING], clock))
    edge = make_edge(telemetry, AccessLog(settings.access_log), clock)
    app.middlewares.append(middleware(edge, lifecycle))
    app[LIFECYCLE], app[TELEMETRY] = lifecycle, telemetry
    decorator = Decorator(settings.cors_origins)
    decorate_all(app, decorator)
    app.cleanup_ctx.append(
        resources(settings, table, strategies, telemetry, lag, lifecycle, rng, clock, shared, trial)
    )
    clients = Clients(settings.trusted_proxies)
    if settings.rate_limit:
        limit_rates(app, lambda: app[LIMITER], clients)

    asking = Asking(
        timeout_reader(settings.request_timeout),
        Appointments(lambda: lag.recent),
        telemetry,
        clock,
    )
    query = timeout_schema(settings.request_timeout)
    handlers = {route.path: FanOutHandler(route, strategies, asking) for route in table.routes}
    app[DIRECT] = make_direct(handlers, PlainAnswers(decorator), edge, lifecycle)
    for route in table.routes:
        app.router.add_get(
            route.path,
            document(
                handlers[route.path].for_aiohttp(),
                tag="work",
                summary=route.summary,
                query=query,
                replies=_replies(route),
            ),
        )

    if any(entry.name == EVENTS for entry in table.upstreams):
        add_event_routes(app, strategies, asking, query)

    if settings.load_shedding:
        paths = [resource.canonical for resource in app.router.resources()]  # not the pages, which follow
        app[SHEDDING] = Shedding(
            Gate(lambda then: asyncio.get_running_loop().call_soon(then), clock, lambda: lag.latest, rng),
            Refuser(decorator, settings.cors_origins),
            paths,
            settings.request_timeout,
            telemetry.refused,
        )

    if settings.downloads:
        _add_downloads(app, settings, clients, rng, clock, trial)

    add_pages(
        app,
        welcome=settings.welcome_message,
        lifecycle=lifecycle,
        telemetry=telemetry,
        gather=shared.gather,
        checks=health_checks(app, downloads=settings.downloads),
        upstreams=lambda: standing(app, table, clock()),
    )
    return app


def _add_downloads(
    app: web.Application,
    settings: Settings,
    clients: Clients,
    rng: random.Random,
    clock: Callable[[], float],
    trial: Trial,
) -> None:
    limits = Limits(wait=settings.request_timeout, link=settings.download_link)
    add_download_routes(
        app,
        DownloadHandlers(
            lambda: app[DOWNLOADS].service, clients, limits, trial.wall, clock, rng.random, trial.step
        ),
    )
    if settings.s3_endpoint is None and settings.s3_bucket_name is None:

        def local() -> tuple[LocalObjects, UrlSigner]:
            opened = app[DOWNLOADS].local
            assert opened is not None  # noqa: S101 - it is not S3
            return opened

        add_object_routes(app, ObjectHandler(lambda: local()[0], lambda: local()[1]))


def _replies(route: Route) -> dict[int, Reply]:
    return {
        200: Reply(route.summary, dict(route.render.shape), route.render.example),
        400: problem("`timeout` is not a whole number of milliseconds in range."),
        503: problem("There is more to do than can be done within the timeout.", "Retry-After"),
        route.on_failure: problem(
            "The upstream did not give what this route needs, within the timeout.", "Retry-After"
        ),
    }
