"""Servers, workers and a store that are killed and started again, and callers who do not give up.

What was acknowledged to a caller is written down here, in the caller's own journal, before anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer

from strategies import value
from tests.downloads.whole import BASE, QUIET
from tests.kills.launch import REAL, Order, Pace, launch
from tests.kills.stores import Debian, Embedded, Store

STARTS_WITHIN = 60.0
"""Seconds, on a machine that does other things too; it takes a tenth of one."""
PATIENCE = 10.0
"""Seconds that a caller waits for an answer."""
LATER = frozenset({429, 503, 507})
"""What a caller may be told while something is being killed. A 500 is a bug."""
SETTINGS = {
    **QUIET,
    "DOWNLOAD_DELAY_ENABLED": "true",
    "DOWNLOAD_DELAY_MIN_MS": "200",
    "DOWNLOAD_DELAY_MAX_MS": "1000",
    "DOWNLOAD_JOBS_PER_CLIENT": "6",  # few, so that some have to wait for others
    "DOWNLOAD_OPEN_JOBS_PER_CLIENT": "100",  # so few are done soon after the last kill
    "LOG_LEVEL": "info",
}
KINDS = {"embedded": ("server", "worker"), "redis": ("server", "worker"), "two": ("server", "server")}
"""What runs, by the kind of site; the store is Redis but for the first."""


@value
class Acknowledged:
    """A job that a caller was told of, and how it has to end."""

    id: str
    key: str
    files: tuple[int, ...]
    callback: bool
    end: str = "completed"


@dataclass
class Child:
    """A process that was started, and where it says that it has begun."""

    role: str
    process: ForkServerProcess
    started: Connection
    url: str = ""

    @property
    def alive(self) -> bool:
        return self.process.is_alive()


@dataclass
class Receiver:
    """Takes webhooks; the first one to ``/flaky/…`` not. *ids* are those that came for each job."""

    ids: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    port: int = 0

    async def take(self, request: web.Request) -> web.Response:
        told = json.loads(await request.read())
        seen = self.ids[told["data"]["jobId"]]
        seen.append(request.headers["webhook-id"])
        return web.Response(status=500 if request.path.startswith("/flaky") and len(seen) == 1 else 204)


class Site:
    """
    What is killed. Children have names, from 0; who is killed is started again by the test.

    Attributes:
        data: the folder that all of it shares.
        settings: of who is started from now on.
        journal: what callers were told.
        keys: every key with which a job was asked for.
    """

    def __init__(
        self,
        data: Path,
        store: Store,
        receiver: Receiver,
        session: aiohttp.ClientSession,
        pace: Pace,
        rng: random.Random,
    ) -> None:
        self.data = data
        self.settings = {**SETTINGS, "DATA_DIR": str(data), **store.environ}
        self.store = store
        self.receiver = receiver
        self.rng = rng
        self.journal: list[Acknowledged] = []
        self.keys: set[str] = set()
        self.children: dict[int, Child] = {}
        self.log = data.parent / "log"
        self._told = (data.parent / "journal").open("a")
        self._session = session
        self._pace = pace
        self._numbers = count(1)

    # Processes

    def start(self, name: int, role: str, step: str) -> None:
        """Start one; it may be killed before it has begun."""
        order = Order(role, dict(self.settings), self.receiver.port, self.log, self._pace, step)
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=launch, args=(order, theirs), name=f"{role} {name}")
        process.start()
        theirs.close()
        self.children[name] = Child(role, process, ours)

    def kill(self, *names: int) -> None:
        """As a crash would end them; returns when they are gone."""
        found = [self.children.pop(name) for name in names]
        for child in found:
            child.process.kill()
        for child in found:
            _bury(child)

    async def begun(self, name: int) -> None:
        """Wait until a child has begun, or has ended."""
        child = self.children[name]
        async with asyncio.timeout(STARTS_WITHIN):
            while child.alive and not self._has_begun(child):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.01)

    async def ended(self) -> None:
        """Wait until a child has killed itself."""
        async with asyncio.timeout(STARTS_WITHIN):
            while all(child.alive for child in self.children.values()):  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.01)
        codes = {child.process.exitcode for child in self.children.values() if not child.alive}
        assert codes == {-signal.SIGKILL}, f"ended with {codes}; see {self.log}"

    def stop(self) -> None:
        """End all of them in an orderly way."""
        for child in self.children.values():
            if child.process.pid is not None:
                os.kill(child.process.pid, signal.SIGTERM)
        for child in self.children.values():
            child.process.join(STARTS_WITHIN)
        codes = {child.process.name: child.process.exitcode for child in self.children.values()}
        self.close()
        assert set(codes.values()) <= {0}, f"{codes}; see {self.log}"

    def close(self) -> None:
        """Kill whatever is left."""
        self.kill(*self.children)
        self._told.close()

    def _has_begun(self, child: Child) -> bool:
        if not child.url and child.started.poll():
            try:
                child.url = child.started.recv() or "a worker"
            except EOFError:
                return False
        return bool(child.url)

    def _urls(self) -> list[str]:
        servers = [child for child in self.children.values() if child.role == "server"]
        return [child.url for child in servers if self._has_begun(child)]

    # Callers

    async def post(self, files: int = 1, callback: str = "") -> Acknowledged:
        """
        A new job, asked for until it is acknowledged: its files are nobody else's. *callback* is nothing,
        ``hook``, or ``flaky``.
        """
        key, body = self._wanted(files, callback)
        while True:
            job_id = await self._ask(key, body)
            if job_id is not None:
                break
            await asyncio.sleep(self.rng.uniform(0.02, 0.2))
        acknowledged = Acknowledged(job_id, key, tuple(body["file_ids"]), bool(callback))
        self._told.write(f"{acknowledged}\n")
        self._told.flush()
        self.journal.append(acknowledged)
        return acknowledged

    async def post_and_cancel(self) -> None:
        """A new job, cancelled at once; the server is expected not to survive that."""
        job = await self.post(3, "hook")
        self.journal[self.journal.index(job)] = replace(job, end="cancelled")
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with self._session.delete(f"{self._urls()[0]}{BASE}/{job.id}"):
                pass

    async def try_once(self) -> None:
        """A new job, asked for by somebody who goes away when there is no answer."""
        key, body = self._wanted(1, "")
        await self._ask(key, body)

    def _wanted(self, files: int, callback: str) -> tuple[str, dict[str, Any]]:
        numbers = [next(self._numbers) for _ in range(files)]
        key = f"key-{numbers[0]}"
        self.keys.add(key)
        body: dict[str, Any] = {"file_ids": [70_000 + 7 * number for number in numbers]}
        if callback:
            body["callbackUrl"] = f"http://127.0.0.1:{self.receiver.port}/{callback}/{key}"
        return key, body

    async def _ask(self, key: str, body: dict[str, Any]) -> str | None:
        urls = self._urls()
        if not urls:
            return None
        url = f"{self.rng.choice(urls)}{BASE}/initiate"
        try:
            async with self._session.post(url, json=body, headers={"Idempotency-Key": key}) as response:
                text = await response.text()
                if response.status in LATER:
                    return None
                assert response.status == 200, f"{response.status} {text}"
                return str(json.loads(text)["jobId"])
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def get(self, path: str) -> bytes:
        """What a server answers, asked until it can."""
        async with asyncio.timeout(STARTS_WITHIN):
            while True:
                [url, *_] = self._urls()
                async with self._session.get(f"{url}{BASE}{path}") as response:
                    body = await response.read()
                if response.status not in LATER:
                    assert response.status == 200, f"{path}: {response.status} {body!r}"
                    return body
                await asyncio.sleep(0.05)

    async def status(self, job_id: str, so: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The job, once it is *so*."""
        async with asyncio.timeout(STARTS_WITHIN):
            while not so(found := json.loads(await self.get(f"/status/{job_id}"))):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return dict(found)


def _bury(child: Child) -> None:
    child.process.join()
    child.process.close()
    child.started.close()


CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.kills.launch"])


@asynccontextmanager
async def site(folder: Path, kind: str, pace: Pace = REAL, seed: int | None = None) -> AsyncIterator[Site]:
    """A store of that *kind*, and nobody who runs yet. At the end all is gone."""
    data = folder / "data"
    data.mkdir()
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{how}/{key}", receiver.take)
    rng = random.Random(time.time_ns() if seed is None else seed)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with TestServer(app) as server, aiohttp.ClientSession(timeout=timeout) as session:
        assert server.port is not None
        receiver.port = server.port
        store: Store = Embedded(data) if kind == "embedded" else Debian(folder / "redis")
        made = Site(data, store, receiver, session, pace, rng)
        try:
            yield made
        finally:
            made.close()
            store.close()


async def start_all(site: Site, roles: Sequence[str], step: str = "") -> None:
    """Start those of *roles* that do not run, by their places in it, and wait until all have begun."""
    for name, role in enumerate(roles):
        if name not in site.children:
            site.start(name, role, step)
    for name in range(len(roles)):
        await site.begun(name)
