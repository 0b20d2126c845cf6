"""A whole application in front of an upstream that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pytest_aiohttp.plugin import AiohttpClient, AiohttpServer

from server.app import DIRECT, LIFECYCLE, ROUTES, SHEDDING, TELEMETRY, create_app
from server.arrival import Arrival
from server.front import FrontProtocol, front
from server.headers import Decorator
from server.routes import load_table
from server.settings import load_settings

Client: TypeAlias = TestClient[web.Request, web.Application]
Serve: TypeAlias = Callable[..., Awaitable[Client]]


class Upstream:
    """
    The upstream of ``/api/*``, by script: each request plays the next step, the last step repeats.

    A step is a body for a 200, a status, ``"hang"``, or an event to wait for before answering
    ``{"time": 1}``.
    """

    def __init__(self) -> None:
        self.script: list[bytes | int | str | asyncio.Event] = [b'{"time": 160}']
        self.calls = 0
        self.gone = asyncio.Event()
        """Set when a caller has gone away from a request that was under way."""
        self.called = asyncio.Event()

    def plays(self, *script: bytes | int | str | asyncio.Event) -> None:
        """Follow *script* from here on."""
        self.script = list(script)
        self.calls = 0

    async def called_times(self, calls: int) -> None:
        """Wait until that many requests of the script have come."""
        while self.calls < calls:
            self.called.clear()
            await self.called.wait()

    async def answer(self, request: web.Request) -> web.Response:
        step = self.script[min(self.calls, len(self.script) - 1)]
        self.calls += 1
        self.called.set()
        try:
            if step == "hang":
                await asyncio.Event().wait()
            if isinstance(step, asyncio.Event):
                await step.wait()
                step = b'{"time": 1}'
        except asyncio.CancelledError:
            self.gone.set()
            raise
        if isinstance(step, int):
            return web.Response(status=step, text="no")
        assert isinstance(step, bytes)
        return web.Response(body=step, content_type="application/json")


@pytest.fixture
async def upstream() -> Upstream:
    """The upstream that `serve` puts the application in front of."""
    return Upstream()


class FrontRunner(web.AppRunner):
    """Connections are taken as `server.serve` takes them, so that plain GETs go the direct way."""

    @property
    def server(self) -> Any:
        """What is called for each connection."""
        app, server = self.app, super().server
        return server and front(
            server, Decorator(("*",)), app[TELEMETRY], app[DIRECT], app.get(SHEDDING), app[LIFECYCLE]
        )


class FrontServer(TestServer):
    """A test server whose connections are ours."""

    async def _make_runner(self, **settings: Any) -> web.AppRunner:
        return FrontRunner(self.app, handler_cancellation=True)


@pytest.fixture(params=["aiohttp", "direct"])
def way(request: pytest.FixtureRequest) -> str:
    """How plain GETs of fan-out routes are answered; a caller must not be able to tell."""
    return str(request.param)


@pytest.fixture
async def serve(
    upstream: Upstream,
    aiohttp_client: AiohttpClient,
    aiohttp_server: AiohttpServer,
    way: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Serve:
    """Start the application with the given settings; returns a client of it. No request comes to it late."""
    monkeypatch.setattr(Arrival, "age", lambda arrival: 0.0)

    async def start(table: str | None = None, **environ: Any) -> Client:
        app = web.Application()
        app.router.add_get("/api/work", upstream.answer)
        source = await aiohttp_server(app)
        given = {"DOWNLOADS": "off", "WORK_API_URL": str(source.make_url("/api/work")), **environ}
        settings = load_settings(given)
        text = table or ROUTES.read_text("utf-8")
        app = create_app(settings, load_table(text, settings.environ))
        server = FrontServer(app) if way == "direct" else TestServer(app)
        # the type of a client knows the application only if the client made the server
        return cast(Client, await aiohttp_client(server))

    return start


@pytest.fixture
async def client(serve: Serve) -> Client:
    """A client of the application with its default settings."""
    return await serve()


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What reached aiohttp's own ``data_received``."""
    seen: list[bytes] = []
    original = web.RequestHandler.data_received

    def spy(self: web.RequestHandler, data: bytes) -> None:
        if isinstance(self, FrontProtocol):  # the simulator is served by aiohttp as well
            seen.append(data)
        original(self, data)

    monkeypatch.setattr(web.RequestHandler, "data_received", spy)
    return seen
