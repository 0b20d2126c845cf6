"""The whole application, served as it is run; its caller, a source of files and a receiver of webhooks."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from ipaddress import ip_network
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from server import jobs_cli, lifespan, rate_limits
from server.app import ROUTES, create_app
from server.downloads import channels, engine, service
from server.job_store import opening
from server.lifespan import NO_TRIAL, Trial
from server.routes import Table, load_table
from server.serve import listen, serving
from server.settings import load_settings
from server.webhooks.signing import new_secret
from upstream.guard import Policy
from upstream.simulator.files import FileService

BASE = "/v1/download"
PATIENCE = 30.0
"""Seconds after which a test fails instead of waiting."""
SECRET = new_secret()
QUIET = {
    "DOWNLOADS": "on",
    "DOWNLOAD_DELAY_ENABLED": "false",
    "RATE_LIMIT": "off",
    "ACCESS_LOG": "off",
    "DRAIN_DELAY_MS": "0",
    "SHUTDOWN_TIMEOUT_MS": "0",
    "SIMULATOR_LATENCY": "constant:1",
    "SIMULATOR_FAILURE": "0",
    "SIMULATOR_INVALID": "0",
    "SIMULATOR_HANG": "0",
    "WEBHOOK_SECRETS": SECRET,
}
"""Settings of a server that is neither slow nor chatty, and whose luck is good."""


def be_patient(patch: pytest.MonkeyPatch, seconds: float = PATIENCE) -> None:
    """Let the job store have *seconds* for each answer: how busy this machine is must not matter."""
    for room in (service, jobs_cli):
        patch.setattr(room, "JobStoreConfig", partial(opening.JobStoreConfig, patience=seconds))
    patch.setattr(opening, "CHECK", seconds)
    for room in (engine, channels):
        patch.setattr(room, "PATIENCE", seconds)
    patch.setattr(lifespan, "open_rate_limiter", partial(rate_limits.open_rate_limiter, patience=seconds))
    patch.setattr(rate_limits, "CLOSES_WITHIN", seconds)


@dataclass
class Answer:
    """An answer, read to its end; *told* is the JSON in it."""

    status: int
    headers: Any
    body: bytes = field(repr=False)

    @property
    def told(self) -> Any:
        return json.loads(self.body)


@dataclass
class Told:
    """A server-sent event."""

    id: str
    kind: str
    data: dict[str, Any]


class Site:
    """A server that runs, and a caller of it."""

    def __init__(self, app: web.Application, url: str, session: aiohttp.ClientSession) -> None:
        self.app = app
        self.url = url
        self.session = session

    async def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """One request; *body* goes as JSON, and ``_`` in the names of headers stands for ``-``."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        async with self.session.request(
            method, f"{self.url}{path}", json=body, headers=named, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.ask("GET", path, **headers)

    async def initiate(self, *file_ids: object, **headers: str) -> Answer:
        return await self.ask("POST", f"{BASE}/initiate", {"file_ids": file_ids}, **headers)

    async def job(self, *file_ids: int, callback: str | None = None, **headers: str) -> str:
        """The id of a new job."""
        body: dict[str, object] = {"file_ids": file_ids or (70000,)}
        if callback is not None:
            body["callbackUrl"] = callback
        answer = await self.ask("POST", f"{BASE}/initiate", body, **headers)
        assert answer.status == 200, answer.body
        return str(answer.told["jobId"])

    async def status(self, job_id: str) -> Any:
        """The job, as it stands."""
        answer = await self.get(f"{BASE}/status/{job_id}")
        assert answer.status == 200, answer.body
        return answer.told

    async def cancel(self, job_id: str) -> Answer:
        return await self.ask("DELETE", f"{BASE}/{job_id}")

    async def ended(self, job_id: str) -> Any:
        """The job, once it has ended."""
        async with self.follow(job_id) as events:
            async for _ in events:
                pass
        found = await self.status(job_id)
        assert found["endedAt"] is not None, found
        return found

    async def completed(self, *file_ids: int, **headers: str) -> str:
        """The id of a new job, once it is completed."""
        job_id = await self.job(*file_ids, **headers)
        found = await self.ended(job_id)
        assert found["status"] == "completed", found
        return job_id

    async def told(self, job_id: str, *kinds: str) -> Told:
        """The first event of one of *kinds*."""
        async with self.follow(job_id) as events:
            async for event in events:
                if event.kind in kinds:
                    return event
        raise AssertionError(f"the job ended without {kinds}")

    @asynccontextmanager
    async def follow(self, job_id: str, after: str | None = None) -> AsyncIterator[AsyncIterator[Told]]:
        """The job's events, from the one *after* that id."""
        headers = {} if after is None else {"Last-Event-ID": after}
        async with self.session.get(f"{self.url}{BASE}/subscribe/{job_id}", headers=headers) as response:
            assert response.status == 200, await response.read()
            yield events_of(response)

    async def history(self, job_id: str) -> list[Told]:
        """All events of a job, once it has ended."""
        async with self.follow(job_id) as events:
            return [event async for event in events]

    async def callback(self, job_id: str, so: str) -> Any:
        """What the status tells of the job's webhook once that is *so*."""
        return (await self.when(job_id, lambda found: found["callback"]["status"] == so))["callback"]

    async def when(self, job_id: str, so: Callable[[Any], object]) -> Any:
        """The job, once it is *so*; for what no event tells."""
        async with asyncio.timeout(PATIENCE):
            while not so(found := await self.status(job_id)):  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.01)
        return found


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[Told]:
    """The events of a stream until it ends; comments and ``retry`` are passed over."""
    fields: dict[str, str] = {}
    async for raw in response.content:
        line = raw.decode().rstrip("\r\n")
        if line:
            name, _, text = line.partition(": ")
            fields[name] = text
        else:
            if "data" in fields:
                yield Told(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


@cache
def _table(source: str) -> Table:
    """The routes in front of that source of files. To read them takes a tenth of a second."""
    return load_table(ROUTES.read_text("utf-8"), {"DOWNLOAD_SOURCE_URL": source} if source else {})


@asynccontextmanager
async def whole(trial: Trial = NO_TRIAL, /, **environ: str) -> AsyncIterator[Site]:
    """A server with those settings, until the end of the block."""
    settings = load_settings({**QUIET, **environ})
    app = create_app(settings, _table(environ.get("DOWNLOAD_SOURCE_URL", "")), trial=trial)
    async with AsyncExitStack() as stack:
        sock = stack.enter_context(listen("127.0.0.1", 0))
        url, _ = await stack.enter_async_context(serving(app, settings, sock))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=PATIENCE)
            )
        )
        yield Site(app, url, session)


@asynccontextmanager
async def hosted(trial: Trial = NO_TRIAL, /, **environ: str) -> AsyncIterator[Site]:
    """
    The same in a task of its own: the job engine has to be closed in the context in which it was opened,
    and a fixture's end runs in another than its beginning.
    """
    sites: list[Site] = []
    settled, over = asyncio.Event(), asyncio.Event()

    async def host() -> None:
        try:
            async with whole(trial, **environ) as site:
                sites.append(site)
                settled.set()
                await over.wait()
        finally:
            settled.set()

    task = asyncio.create_task(host(), name="the whole application")
    await settled.wait()
    try:
        for site in sites:
            yield site
    finally:
        over.set()
        await task


class Files:
    """
    The source of files, played by a test.

    Attributes:
        service: what answers.
        open: while it is not set, calls wait.
        asked, gone: set once a call has come, and once a caller has gone from one that waited.
        calls: how many are under way.
        answered: set once a call was answered; for a test to clear.
    """

    def __init__(self) -> None:
        self.service = FileService(random.Random(1))
        self.open, self.asked, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.open.set()
        self.answered = asyncio.Event()
        self.calls = 0
        self.app = web.Application(middlewares=[self._hold])
        self.service.add_to(self.app)
        self.url = ""

    def hold(self) -> None:
        """Let calls wait from now on."""
        self.open.clear()
        self.asked.clear()

    @web.middleware
    async def _hold(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.asked.set()
        self.calls += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.gone.set()
            raise
        finally:
            self.calls -= 1
        self.answered.set()
        return await handler(request)


@asynccontextmanager
async def source_of_files() -> AsyncIterator[Files]:
    """A source that is reached at its ``url``."""
    files = Files()
    async with TestServer(files.app) as server:
        files.url = str(server.make_url("")).rstrip("/")
        try:
            yield files
        finally:
            files.open.set()  # the server waits for its calls


@dataclass
class Posted:
    """A webhook as it came."""

    headers: dict[str, str]
    body: bytes = field(repr=False)


class Receiver:
    """
    A receiver of webhooks, played by a test.

    Attributes:
        script: statuses of its answers; the last one repeats.
        posted: what came.
        open: while it is not set, answers wait.
        asked: set once something has come.
    """

    def __init__(self, *script: int) -> None:
        self.script = script or (204,)
        self.posted: list[Posted] = []
        self.open, self.asked = asyncio.Event(), asyncio.Event()
        self.open.set()
        self.app = web.Application()
        self.app.router.add_post("/hook", self._take)
        self.url = ""
        self.policy = Policy()

    async def _take(self, request: web.Request) -> web.Response:
        status = self.script[min(len(self.posted), len(self.script) - 1)]
        self.posted.append(Posted(dict(request.headers), await request.read()))
        self.asked.set()
        await self.open.wait()
        return web.Response(status=status)


@asynccontextmanager
async def receiver(*script: int) -> AsyncIterator[Receiver]:
    """A receiver at its ``url``, which its ``policy`` lets be reached."""
    found = Receiver(*script)
    async with TestServer(found.app) as server:
        found.url = str(server.make_url("/hook"))
        assert server.port is not None
        ports = frozenset({server.port})
        found.policy = Policy(http=True, ports=ports, allowed=(ip_network("127.0.0.0/8"),))
        try:
            yield found
        finally:
            found.open.set()  # the server waits for its calls
