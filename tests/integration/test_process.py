"""The server as a process: how it starts, what it says, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from server import __version__

ROOT = Path(__file__).parents[2]
FIXED = {"SIMULATOR_FAILURE": "0", "SIMULATOR_INVALID": "0", "SIMULATOR_HANG": "0", "DOWNLOADS": "off"}


async def start(*arguments: str, cwd: Path = ROOT, **environ: str) -> Process:
    """``python -m server`` with *arguments* and *environ*."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", *arguments),
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environ},
        stdout=PIPE,
        stderr=PIPE,
    )


async def outcome(process: Process) -> tuple[int | None, str, str]:
    """Exit code, standard output, standard error."""
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def running(**environ: str) -> AsyncIterator[tuple[Process, str]]:
    """A server that listens; yields the process and its URL. It is killed if the test leaves it running."""
    process = await start("--port", "0", cwd=ROOT, **{**FIXED, **environ})
    assert process.stderr is not None
    try:
        url = ""
        while not url:
            line = await process.stderr.readline()
            url = json.loads(line).get("url", "")
        yield process, url
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_starts_by_itself_and_says_what_plays_the_upstream() -> None:
    """One plain line names the variable that changes it."""
    process = await start("--port", "0")
    assert process.stderr is not None
    line = json.loads(await process.stderr.readline())
    process.terminate()
    await process.communicate()
    assert line["message"].endswith("built-in simulator; set WORK_API_URL to use a real one")


@pytest.mark.fault(86)
async def test_bad_settings_stop_it_with_2_and_every_name() -> None:
    """No traceback, one line each."""
    code, _, err = await outcome(await start(PORT="x", ACCESS_LOG="loud", WORK_API_URL="nonsense"))
    assert code == 2
    assert [line.partition(":")[0] for line in err.splitlines()] == ["ACCESS_LOG", "PORT"]
    code, _, err = await outcome(await start(WORK_API_URL="nonsense"))
    assert code == 2
    assert err.startswith("WORK_API_URL: Must be http:// or https://, a host, and perhaps a port")
    assert err.endswith(" It is 'nonsense'.\n")
    assert err.count("\n") == 1


async def test_a_missing_route_table_stops_it_with_2() -> None:
    """The option is named."""
    code, _, err = await outcome(await start("--config", "no/such.toml"))
    assert code == 2
    assert err.startswith("--config: ")
    assert "Traceback" not in err


async def test_a_typo_in_dotenv_stops_it_with_2(tmp_path: Path) -> None:
    """The file is looked for where the server is started."""
    (tmp_path / ".env").write_text("PROT=1\n")
    code, _, err = await outcome(await start(cwd=tmp_path))
    assert code == 2
    assert "did you mean PORT?" in err


@pytest.mark.fault(86)
async def test_a_port_in_use_stops_it_with_1() -> None:
    """One clear line."""
    async with running() as (_, url):
        code, _, err = await outcome(await start("--port", url.rpartition(":")[2]))
    assert code == 1
    assert err.startswith("HOST, PORT: cannot listen on 127.0.0.1:")
    assert err.count("\n") == 1


async def test_version_and_help() -> None:
    """On standard output, with exit code 0."""
    assert (await outcome(await start("--version")))[:2] == (0, f"Hedgerow {__version__}\n")
    code, out, _ = await outcome(await start("--help"))
    assert code == 0
    for option in ("--host", "--port", "--config", "--version"):
        assert option in out


@pytest.mark.fault(80)
async def test_sigterm_lets_requests_in_flight_finish() -> None:
    """A slow request asked before SIGTERM is answered after it, its connection is closed, the exit is 0."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def work(request: web.Request) -> web.Response:
        asked.set()
        await go_on.wait()
        return web.json_response({"time": 1})

    app = web.Application()
    app.router.add_get("/", work)
    async with (
        TestServer(app) as upstream,
        running(WORK_API_URL=str(upstream.make_url("/")), DRAIN_DELAY_MS="0") as (process, url),
    ):
        async with aiohttp.ClientSession() as session:
            asking = asyncio.ensure_future(session.get(f"{url}/api/first"))
            await asked.wait()
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            while b"draining" not in await process.stderr.readline():
                assert not asking.done()
            go_on.set()
            async with await asking as response:
                assert response.status == 200
        assert await process.wait() == 0


async def test_while_draining_requests_are_served_and_readiness_says_no() -> None:
    """Lame duck: nobody is refused, every answer closes its connection. A second signal ends it at once."""
    async with running(SIMULATOR_LATENCY="constant:1", DRAIN_DELAY_MS="60000") as (process, url):
        async with aiohttp.ClientSession() as session:
            process.send_signal(signal.SIGTERM)
            status = 200
            while status == 200:
                async with session.get(f"{url}/ready") as response:
                    status = response.status
            assert status == 503
            async with session.get(f"{url}/api/first") as response:
                assert (response.status, response.headers["Connection"]) == (200, "close")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def test_the_environment_overrides_and_the_command_line_wins() -> None:
    """HOST and PORT may come from both."""
    process = await start("--port", "0", PORT="1")
    assert process.stderr is not None
    url = ""
    while not url:
        url = json.loads(await process.stderr.readline()).get("url", "")
    process.terminate()
    await process.communicate()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d{4,5}", url)


@pytest.mark.parametrize("arguments", [("--failure", "2"), ("--latency", "fast")])
async def test_the_simulator_checks_its_command_line(arguments: tuple[str, str]) -> None:
    """One line, no traceback."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "upstream.simulator", *arguments), cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    code, _, err = await outcome(process)
    assert code == 1
    assert err.startswith("simulator: ")
    assert err.count("\n") == 1
