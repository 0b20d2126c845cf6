"""Workers as processes: they do what a server accepted, and what another worker had begun."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
from yarl import URL

from tests.job_store.stores import Valkey, valkey

ROOT = Path(__file__).parents[2]
READY = ("listening on ", "working on ")
MAIN = "from server.__main__ import main\nsys.exit(main())"
STARTS_WITHIN = 120.0
"""Seconds, on a machine that does other things too; it takes one."""
SLOW = {"DOWNLOAD_DELAY_MIN_MS": "60000", "DOWNLOAD_DELAY_MAX_MS": "60000"}
"""A file takes longer than any test waits."""
QUICK = {"DOWNLOAD_DELAY_MIN_MS": "200", "DOWNLOAD_DELAY_MAX_MS": "200"}
NEVER = "from server.downloads import engine, rescue\nengine.REDELIVERY = rescue.SILENT = 3600.0"
"""Code for one that takes nothing up from somebody who is dead while a test waits."""
FIXED = {"ACCESS_LOG": "off", "DRAIN_DELAY_MS": "0", "SHUTDOWN_TIMEOUT_MS": "1000"}


class Running:
    """
    A server or a worker.

    Attributes:
        url: where it serves its pages; None: nowhere.
        log: what it has said, in a file.
    """

    def __init__(self, process: Process, url: str | None, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log

    async def ended(self) -> int:
        """Its exit code, once it has ended by itself."""
        async with asyncio.timeout(STARTS_WITHIN):
            return await self.process.wait()


Start = Callable[..., Awaitable[Running]]


@asynccontextmanager
async def processes(folder: Path, **always: str) -> AsyncIterator[Start]:
    """
    Start any number of ``python -m server ...``, each with code *before* it, and wait until they are *ready*;
    those that the test leaves running are killed.
    """
    async with AsyncExitStack() as stack:

        async def start(*arguments: str, before: str = "", ready: bool = True, **environ: str) -> Running:
            path = folder / f"{'-'.join(('log', *arguments[:1]))}-{uuid.uuid4().hex[:8]}"
            with path.open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", f"import sys\n{before}\n{MAIN}", *arguments),
                    cwd=folder,
                    env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **FIXED, **always, **environ},
                    stdout=log,
                    stderr=log,
                )
            stack.push_async_callback(_kill, process)
            if not ready:
                return Running(process, None, path)
            async with asyncio.timeout(STARTS_WITHIN):
                while True:
                    for line in path.read_text().splitlines(keepends=True):
                        if line.endswith("\n") and (told := json.loads(line))["message"].startswith(READY):
                            return Running(process, told.get("url"), path)
                    assert process.returncode is None, path.read_text()
                    await asyncio.sleep(0.02)

        yield start


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.fixture(scope="session")
def queue_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A job store for all tests here that do not harm it."""
    with valkey(tmp_path_factory.mktemp("queue"), appendfsync="no") as store:
        yield store


@pytest.fixture
async def start(queue_store: Valkey, tmp_path: Path) -> AsyncIterator[Start]:
    """Start processes that share an empty job store, and are quick unless a test says otherwise."""
    with redis.Redis.from_url(queue_store.url) as client:
        client.flushall()
    async with processes(tmp_path, REDIS_URL=queue_store.url, **QUICK) as started:
        yield started


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client."""
    async with aiohttp.ClientSession() as session:
        yield session


async def serving(start: Start, before: str = "") -> str:
    """The URL of a server that leaves the work to others."""
    server = await start("--port", "0", before=before, DOWNLOAD_WORKERS="off", RATE_LIMIT="off")
    assert server.url is not None
    return server.url


async def initiate(http: aiohttp.ClientSession, url: str, *files: int) -> str:
    """The id of a new job."""
    async with asyncio.timeout(STARTS_WITHIN):
        while True:
            body, headers = {"file_ids": files}, {"Idempotency-Key": "1"}
            async with http.post(f"{url}/v1/download/initiate", json=body, headers=headers) as response:
                told = await response.json()
            if response.status == 200:
                return str(told["jobId"])
            assert response.status == 503, told  # the store is as slow as this machine
            await asyncio.sleep(0.1)


async def until(
    http: aiohttp.ClientSession, url: str, job: str, so: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Poll the status of the job until it is *so*."""
    async with asyncio.timeout(STARTS_WITHIN):
        while True:
            async with http.get(f"{url}/v1/download/status/{job}") as response:
                status: dict[str, Any] = await response.json()
            if response.status == 200 and so(status):
                return status
            await asyncio.sleep(0.02)


async def calls_under_way(http: aiohttp.ClientSession, worker: Running, calls: int) -> None:
    """Wait until the worker has so many calls to the source of files under way."""
    line = f'hedgerow_attempts_in_flight{{upstream="files"}} {calls}.0'
    async with asyncio.timeout(STARTS_WITHIN):
        while line not in (await page(http, worker.url, "/metrics"))[1]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def operator(folder: Path, *arguments: str, **environ: str) -> tuple[int | None, str, str]:
    """A command's exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", *arguments),
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def page(http: aiohttp.ClientSession, url: str | None, path: str) -> tuple[int, str]:
    """Status and body."""
    async with http.get(f"{url}{path}") as response:
        return response.status, await response.text()


async def test_a_worker_does_what_a_server_without_workers_has_accepted(
    start: Start, http: aiohttp.ClientSession
) -> None:
    """It finds the job when it starts, and the files of both are the same."""
    url = await serving(start)
    job = await initiate(http, url, 70000, 70001)
    await start("worker")
    status = await until(http, url, job, lambda status: status["status"] not in ("queued", "running"))
    assert (status["status"], status["runs"]) == ("completed", 1)
    assert [file["status"] for file in status["files"]] == ["completed", "failed"], "one id has no file"
    async with http.get(f"{url}/v1/download/{job}") as response:
        link = (await response.json())["files"][0]["downloadUrl"]
    async with http.get(URL(url).join(URL(link))) as response:
        assert (response.status, len(await response.read())) == (200, status["files"][0]["size"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.fault(80)
async def test_a_worker_that_is_told_to_stop_hands_over_at_once(
    start: Start, http: aiohttp.ClientSession, number: signal.Signals
) -> None:
    """Nobody waits for the time after which the jobs of a dead one are taken up."""
    url = await serving(start, NEVER)
    slow = await start("worker", before=NEVER, **SLOW)
    job = await initiate(http, url, 70000)
    await until(http, url, job, lambda status: status["files"][0]["status"] == "running")
    await start("worker", before=NEVER)
    slow.process.send_signal(number)
    await until(http, url, job, lambda status: status["runs"] == 2)
    assert await slow.ended() == 0
    status = await until(http, url, job, lambda status: status["status"] == "completed")
    assert (status["runs"], status["files"][0]["attempts"]) == (2, 2)


async def test_a_job_that_an_operator_cancels_is_left_by_the_worker_that_has_it(
    start: Start, http: aiohttp.ClientSession, queue_store: Valkey, tmp_path: Path
) -> None:
    """The call to the source ends long before the file is there, and before a sign of life is due."""
    url = await serving(start)
    silent = "from server.downloads import work\nwork.RENEWAL = 3600.0"
    worker = await start("worker", "--port", "0", before=silent, **SLOW)
    job = await initiate(http, url, 70000)
    await calls_under_way(http, worker, 1)
    code, out, err = await operator(tmp_path, "jobs", "cancel", job, REDIS_URL=queue_store.url)
    assert (code, out, err) == (0, f"{job} is cancelled.\n", "")
    await calls_under_way(http, worker, 0)
    status = await until(http, url, job, lambda status: True)
    assert status["status"] == "cancelled"


async def test_a_worker_has_pages_for_operators_where_it_is_told(
    start: Start, http: aiohttp.ClientSession
) -> None:
    """And nowhere else: with PORT set to one that is taken it starts all the same."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert (await start("worker", PORT=port)).url is None
        worker = await start("worker", "--port", "0", PORT=port)
    status, body = await page(http, worker.url, "/health")
    assert (status, json.loads(body)["checks"]) == (200, {"session": "ok", "storage": "ok", "jobs": "ok"})
    status, body = await page(http, worker.url, "/ready")
    assert (status, json.loads(body)["ready"], list(json.loads(body)["upstreams"])) == (200, True, ["files"])
    status, body = await page(http, worker.url, "/v1/download/jobs")
    assert status == 404


@pytest.mark.fault(81)
async def test_a_worker_whose_store_hangs_is_unwell_and_ends_when_it_is_told_so_again(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """It waits for the store to take back the job that is under way, and each signal gives up one wait."""
    with valkey(tmp_path / "store") as store:
        async with processes(tmp_path, REDIS_URL=store.url, **SLOW) as start:
            url = await serving(start)
            worker = await start("worker", "--port", "0")
            await initiate(http, url, 70000)
            await calls_under_way(http, worker, 1)
            store.freeze()
            assert (await page(http, worker.url, "/health"))[0] == 503
            async with asyncio.timeout(STARTS_WITHIN):
                while "stopped" not in worker.log.read_text():  # after that a signal would be its end
                    worker.process.send_signal(signal.SIGTERM)
                    await asyncio.sleep(1.0)
            assert await worker.ended() == 0
