"""``python -m server worker``: the work on downloads in a process of its own, which serves nobody.

It opens what the server opens, without the upstreams and the limits of routes that it has not. Whoever wants
to know how it is gets a port with the pages of operators; jobs come through the job store alone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace

from aiohttp import web
from prometheus_client import CollectorRegistry

from server.access_log import AccessLog
from server.checks import health_checks, standing
from server.downloads.source import UPSTREAM as FILES
from server.edge import Edge, decorate_all, middleware
from server.headers import Decorator
from server.lifecycle import Lifecycle
from server.lifespan import ALONE, NO_TRIAL, Trial, resources
from server.loop_lag import LoopLag
from server.pages import add_pages
from server.routes import Table
from server.settings import ConfigError, Settings
from server.telemetry import Telemetry

log = logging.getLogger("hedgerow.worker")

LIFECYCLE = web.AppKey("LIFECYCLE", Lifecycle)
PAGES_WITHIN = 0.2
"""Seconds that a page which is being asked for has to be answered at the end."""


def only_files(settings: Settings, table: Table) -> Table:
    """
    What a worker needs of *table*: the source of files.

    Raises:
        ConfigError: there is nothing to work on.
    """
    problems = [] if settings.downloads else ["DOWNLOADS: off, so a worker has nothing to do."]
    files = tuple(entry for entry in table.upstreams if entry.name == FILES)
    if not files:
        problems.append(f"--config: no upstream {FILES!r}, so a worker has nothing to do.")
    if problems:
        raise ConfigError(problems)
    return Table(files, ())


def create_worker(
    settings: Settings,
    table: Table,
    rng: random.Random | None = None,
    clock: Callable[[], float] = time.monotonic,
    trial: Trial = NO_TRIAL,
) -> web.Application:
    """
    The worker, as an application that works from its start to its clean-up. Arguments are as for
    `server.app.create_app`; *table* is what `only_files` gave.
    """
    settings = replace(settings, download_workers=True, rate_limit=False)
    rng = rng or random.Random(settings.simulator_seed)
    lifecycle, telemetry = Lifecycle(), Telemetry(CollectorRegistry())
    edge = Edge(telemetry, AccessLog(settings.access_log), clock)
    app = web.Application(middlewares=[middleware(edge, lifecycle)])
    app[LIFECYCLE] = lifecycle
    decorate_all(app, Decorator(settings.cors_origins))
    lag = LoopLag(telemetry.loop_lag.observe, clock)
    app.cleanup_ctx.append(
        resources(settings, table, {}, telemetry, lag, lifecycle, rng, clock, ALONE, trial)
    )
    add_pages(
        app,
        welcome="A worker of Hedgerow. It works on downloads; ask the server for them.",
        lifecycle=lifecycle,
        telemetry=telemetry,
        gather=ALONE.gather,
        checks=health_checks(app, downloads=True),
        upstreams=lambda: standing(app, table, clock()),
    )
    return app


async def run_worker(app: web.Application, sock: socket.socket | None = None) -> None:
    """
    Work until SIGTERM or SIGINT, then hand over what is under way, so that others go on with it at once.
    Each further signal gives up what the end is waiting for; then it may take others some seconds to notice.

    Args:
        app: the worker.
        sock: where its pages are served; None: nowhere.
    """
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    working = asyncio.create_task(_work(app, sock, stop), name="the worker")

    def asked_to_stop() -> None:
        if stop.is_set():
            working.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    await asyncio.wait({working})
    if working.cancelled():
        log.warning("stopped, without waiting for all to be handed over")
        return
    working.result()
    log.info("stopped")


async def _work(app: web.Application, sock: socket.socket | None, stop: asyncio.Event) -> None:
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=PAGES_WITHIN)
    await runner.setup()
    try:
        where = {}
        if sock is not None:
            await web.SockSite(runner, sock).start()
            host, port = sock.getsockname()[:2]
            where = {"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"}
        log.info("working on downloads", extra=where)
        await stop.wait()
        app[LIFECYCLE].draining = True
        log.info("handing over the jobs that are under way")
    finally:
        await runner.cleanup()
