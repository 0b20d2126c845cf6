"""What the application opens when it starts, and closes in the opposite order when it ends."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, TypeAlias

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from server.downloads.metrics import Metrics
from server.downloads.service import Downloads, open_downloads
from server.downloads.source import UPSTREAM as FILES
from server.events.routes import event_strategies
from server.lifecycle import Lifecycle
from server.loop_lag import LoopLag
from server.rate_limits import Rate, RateLimiter, open_rate_limiter
from server.routes import Table, UpstreamEntry
from server.settings import Settings
from server.telemetry import Telemetry
from server.trace_context import no_span
from strategies import FirstStrategy, NoOptions, Reaper, Strategy, value
from upstream.breaker import LocalStore, Store
from upstream.circuits import Circuits
from upstream.guard import Policy
from upstream.session import PoolLimits, open_session
from upstream.simulator.app import serve_simulator
from upstream.simulator.events import EventService
from upstream.simulator.files import FileService, at_once
from upstream.simulator.latency import parse_latency
from upstream.simulator.work import WorkModel
from upstream.spec import UpstreamSpec
from upstream.stack import Upstreams

if TYPE_CHECKING:  # only who traces pays for the import
    from server.tracing import Tracing

Context: TypeAlias = Callable[[web.Application], AsyncIterator[None]]

LATE = 0.010
"""Seconds of lag from which on the loop has more to do than it can: no time for extra attempts."""
SESSION = web.AppKey("SESSION", aiohttp.ClientSession)
REAPER = web.AppKey("REAPER", Reaper)
CIRCUITS = web.AppKey("CIRCUITS", Circuits)
DOWNLOADS = web.AppKey("DOWNLOADS", Downloads)
LIMITER = web.AppKey("LIMITER", RateLimiter)
TRACING: web.AppKey[Tracing] = web.AppKey("TRACING")
FETCH = "downloads.fetch"


async def _own(registry: CollectorRegistry) -> CollectorRegistry:
    return registry


@value
class Shared:
    """
    What the workers of one server have in common; as it stands, a process that is alone.

    Attributes:
        store: makes the store of circuit number n.
        simulator: where the built-in simulator is; None if it is to be started in this process.
        gather: from this process's metrics to those of all.
    """

    store: Callable[[int], Store] = lambda number: LocalStore()
    simulator: str | None = None
    gather: Callable[[CollectorRegistry], Awaitable[CollectorRegistry]] = _own


ALONE = Shared()


@value
class Trial:
    """
    What a test puts into downloads; as it stands, nothing.

    Attributes:
        policy: whom webhooks may reach; None: as the settings say.
        step: told the name of each step of a job before it is taken.
        wall: seconds since 1970.
    """

    policy: Policy | None = None
    step: Callable[[str], None] = lambda name: None
    wall: Callable[[], float] = time.time


NO_TRIAL = Trial()


def resources(
    settings: Settings,
    table: Table,
    strategies: dict[str, Strategy[Any]],
    telemetry: Telemetry,
    lag: LoopLag,
    lifecycle: Lifecycle,
    rng: random.Random,
    clock: Callable[[], float],
    shared: Shared,
    trial: Trial,
) -> Context:
    """
    The application's one cleanup context: simulator, session, upstreams, strategies, in that order.

    It fills *strategies*, which the handlers read: a session needs a running loop, routes do not.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            tracing = await _trace(settings, telemetry, clock, stack)
            if tracing is not None:
                app[TRACING] = tracing
            specs = await _locate(table.upstreams, settings, rng, stack, shared.simulator)
            session = open_session(_limits(settings), telemetry)
            stack.push_async_callback(session.close)
            reaper = Reaper(limit=settings.reaper_limit)
            stack.push_async_callback(reaper.aclose, within=1.0)
            telemetry.watch(reaper, clock)
            circuits = Circuits(specs, rng, shared.store)
            telemetry.watch_circuits(circuits, clock)

            def calm() -> bool:
                return lag.recent < LATE

            upstreams = Upstreams(
                session, specs, telemetry, circuits, clock, settings.fast_lane, calm, tracing
            )
            stack.callback(upstreams.close)
            for route in table.routes:
                strategies[route.name] = route.strategy(upstreams.fetch, reaper, route.options)
            strategies.update(event_strategies(upstreams.fetch, reaper, settings.event_fetch_concurrency))
            strategies[FETCH] = FirstStrategy(upstreams.fetch, reaper, NoOptions())
            app[SESSION], app[REAPER], app[CIRCUITS] = session, reaper, circuits
            url = None
            if settings.downloads:
                app[DOWNLOADS] = opened = await stack.enter_async_context(
                    open_downloads(
                        settings,
                        lambda: strategies[FETCH],
                        any(entry.name == FILES and entry.url is None for entry in table.upstreams),
                        trial.wall,
                        clock,
                        rng,
                        Metrics(telemetry.registry),
                        listens=_addresses(settings),
                        work=settings.download_workers,
                        policy=trial.policy,
                        step=trial.step,
                        span=no_span if tracing is None else tracing.task,
                    )
                )
                lifecycle.on_drain(opened.service.streams.drain)
                url = opened.store.url
            if settings.rate_limit:
                rate = Rate(settings.rate_limit_requests, ceil(settings.rate_limit_window))
                app[LIMITER] = await stack.enter_async_context(open_rate_limiter(rate, url, clock))
            lag.start()
            stack.callback(lag.stop)
            lifecycle.started = True
            yield

    return context


async def _trace(
    settings: Settings, telemetry: Telemetry, clock: Callable[[], float], stack: AsyncExitStack
) -> Tracing | None:
    """What begins spans, if there is a collector for them."""
    if settings.otel_endpoint is None:
        return None
    from server.tracing import open_tracing

    return await stack.enter_async_context(
        open_tracing(
            settings.otel_endpoint, settings.otel_service, settings.otel_share, telemetry.spans, clock
        )
    )


def _addresses(settings: Settings) -> list[tuple[str, int]]:
    """Where we listen, in numbers: HOST may be a name."""
    found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    return [(str(where[0]), int(where[1])) for *_, where in found]


def _limits(settings: Settings) -> PoolLimits:
    return PoolLimits(
        connections=settings.upstream_connections,
        per_upstream=settings.upstream_connections_per_host,
        dns_ttl=round(settings.dns_cache),
    )


def simulated(
    settings: Settings, rng: random.Random
) -> tuple[WorkModel, random.Random, EventService, FileService]:
    """The models of the built-in simulator, with the *rng* that decides their luck."""
    model = WorkModel(
        parse_latency(settings.simulator_latency),
        settings.simulator_failure,
        settings.simulator_invalid,
        settings.simulator_hang,
    )
    events = EventService(rng, settings.simulator_event_failure, settings.simulator_event_delay)
    low, high = settings.download_delay_min, settings.download_delay_max
    slow = partial(_uniform, low, high) if settings.download_delay_enabled else at_once
    return model, rng, events, FileService(rng, slow)


def _uniform(low: float, high: float, luck: random.Random) -> float:
    return luck.uniform(low, high)


async def _locate(
    entries: Iterable[UpstreamEntry],
    settings: Settings,
    rng: random.Random,
    stack: AsyncExitStack,
    simulator: str | None,
) -> list[UpstreamSpec]:
    """
    Where each upstream is; those without a URL are at the *simulator*, which is started if any need it and
    nobody else has.
    """
    base = simulator or ""
    if simulator is None and any(entry.url is None for entry in entries):
        model, rng, events, files = simulated(settings, rng)
        base = await stack.enter_async_context(serve_simulator(model, rng, events=events, files=files))
    return [
        UpstreamSpec(
            entry.name,
            entry.url or f"{base}{entry.simulator}",
            entry.accept,
            entry.timeout,
            entry.max_body,
            entry.operations,
            entry.breaker,
            entry.fair_time,
            entry.retry,
            entry.statuses,
        )
        for entry in entries
    ]
