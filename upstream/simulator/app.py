"""The simulated upstreams over HTTP. Each request may say by its query what it wants to meet."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from upstream.simulator.events import EventService
from upstream.simulator.files import FileService
from upstream.simulator.work import GARBAGE, Mood, WorkModel, override

WORK_PATH = "/api/work"


def make_app(
    work: WorkModel,
    rng: random.Random,
    events: EventService | None = None,
    files: FileService | None = None,
) -> web.Application:
    """The application of all simulated upstreams; *rng* decides their luck."""
    app = web.Application()
    (events or EventService(rng)).add_to(app)
    (files or FileService(rng)).add_to(app)
    app.router.add_get(WORK_PATH, _work_handler(work, rng))
    return app


def _work_handler(work: WorkModel, rng: random.Random) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        try:
            model = override(work, request.query) if request.query_string else work
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        seconds, mood = model.draw(rng)
        if mood is Mood.HANG:
            await asyncio.Event().wait()  # until the caller gives up: the server cancels handlers then
        await asyncio.sleep(seconds)
        if mood is Mood.FAIL:
            return web.json_response({"error": "the simulator was told to fail"}, status=500)
        if mood is Mood.GARBLE:
            return web.Response(body=rng.choice(GARBAGE), content_type="application/json")
        return web.Response(body=b'{"time": %d}' % round(seconds * 1000), content_type="application/json")

    return handle


@asynccontextmanager
async def serve_simulator(
    work: WorkModel,
    rng: random.Random,
    host: str = "127.0.0.1",
    port: int = 0,
    events: EventService | None = None,
    files: FileService | None = None,
) -> AsyncIterator[str]:
    """Serve the simulated upstreams while the block runs; yields their URL, ``http://host:port``."""
    runner = web.AppRunner(
        make_app(work, rng, events, files), handler_cancellation=True, access_log=None, shutdown_timeout=1
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=4096)
        await site.start()
        yield f"http://{host}:{site.port}"
    finally:
        await runner.cleanup()
