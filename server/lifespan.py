"""What the application opens when it starts, and closes in the opposite order when it ends."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import aiohttp
from aiohttp import web

from server.events.routes import event_strategies
from server.lifecycle import Lifecycle
from server.loop_lag import LoopLag
from server.routes import Table, UpstreamEntry
from server.settings import Settings
from server.telemetry import Telemetry
from strategies import Reaper, Strategy
from upstream.circuits import Circuits
from upstream.session import PoolLimits, open_session
from upstream.simulator.app import serve_simulator
from upstream.simulator.events import EventService
from upstream.simulator.latency import parse_latency
from upstream.simulator.work import WorkModel
from upstream.spec import UpstreamSpec
from upstream.stack import Upstreams

Context: TypeAlias = Callable[[web.Application], AsyncIterator[None]]

SESSION = web.AppKey("SESSION", aiohttp.ClientSession)
REAPER = web.AppKey("REAPER", Reaper)
CIRCUITS = web.AppKey("CIRCUITS", Circuits)


def resources(
    settings: Settings,
    table: Table,
    strategies: dict[str, Strategy[Any]],
    telemetry: Telemetry,
    lag: LoopLag,
    lifecycle: Lifecycle,
    rng: random.Random,
    clock: Callable[[], float],
) -> Context:
    """
    The application's one cleanup context: simulator, session, upstreams, strategies, in that order.

    It fills *strategies*, which the handlers read: a session needs a running loop, routes do not.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            specs = await _locate(table.upstreams, settings, rng, stack)
            session = open_session(_limits(settings), telemetry)
            stack.push_async_callback(session.close)
            reaper = Reaper(limit=settings.reaper_limit)
            stack.push_async_callback(reaper.aclose, within=1.0)
            telemetry.watch(reaper)
            circuits = Circuits(specs, rng)
            telemetry.watch_circuits(circuits, clock)
            upstreams = Upstreams(session, specs, telemetry, circuits, clock, settings.fast_lane)
            stack.callback(upstreams.close)
            for route in table.routes:
                strategies[route.name] = route.strategy(upstreams.fetch, reaper, route.options)
            strategies.update(event_strategies(upstreams.fetch, reaper, settings.event_fetch_concurrency))
            app[SESSION], app[REAPER], app[CIRCUITS] = session, reaper, circuits
            lag.start()
            stack.callback(lag.stop)
            lifecycle.started = True
            yield

    return context


def _limits(settings: Settings) -> PoolLimits:
    return PoolLimits(
        connections=settings.upstream_connections,
        per_upstream=settings.upstream_connections_per_host,
        dns_ttl=round(settings.dns_cache),
    )


async def _locate(
    entries: Iterable[UpstreamEntry], settings: Settings, rng: random.Random, stack: AsyncExitStack
) -> list[UpstreamSpec]:
    """Where each upstream is; those without a URL are at the simulator, which is started if any need it."""
    base = ""
    if any(entry.url is None for entry in entries):
        model = WorkModel(
            parse_latency(settings.simulator_latency),
            settings.simulator_failure,
            settings.simulator_invalid,
            settings.simulator_hang,
        )
        events = EventService(rng, settings.simulator_event_failure, settings.simulator_event_delay)
        base = await stack.enter_async_context(serve_simulator(model, rng, events=events))
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
        )
        for entry in entries
    ]
