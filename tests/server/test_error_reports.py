"""What is logged as an error reaches Sentry, once, without a secret, and at nobody's expense."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient, AiohttpServer

from server import __version__
from server.__main__ import EXIT_CONFIG, main
from server.app import ROUTES, create_app
from server.error_reports import AT_ONCE, Allowance, error_reports
from server.exchange import EXCHANGE
from server.routes import load_table
from server.settings import load_settings
from tests.server.conftest import Client

CANARY = "canary-7f3a"
ROOT = Path(__file__).parents[2]
log = logging.getLogger("hedgerow.test")


class Ingest:
    """
    As much of Sentry as takes envelopes.

    Attributes:
        dsn: where it is.
        raw: every envelope, as it came.
        items: what was in them, by kind.
    """

    def __init__(self) -> None:
        self.dsn = ""
        self.raw: list[bytes] = []
        self.items: list[tuple[str, Any]] = []
        self._came = asyncio.Condition()

    async def take(self, request: web.Request) -> web.Response:
        """Keep one envelope: a head, then the head and the JSON of each item, a line each."""
        raw = await request.read()
        lines = raw.splitlines()
        async with self._came:
            self.raw.append(raw)
            for head, item in zip(lines[1::2], lines[2::2], strict=True):
                self.items.append((json.loads(head)["type"], json.loads(item)))
            self._came.notify_all()
        return web.json_response({})

    def events(self) -> list[Any]:
        """The events so far."""
        return [item for kind, item in self.items if kind == "event"]

    async def kinds_of_bugs(self, wanted: int) -> None:
        """Wait until exceptions of that many types have come."""
        async with self._came:
            await self._came.wait_for(
                lambda: len({bug_in(event)["type"] for event in self.events()}) >= wanted
            )


@pytest.fixture
async def ingest(aiohttp_server: AiohttpServer) -> Ingest:
    """A Sentry that works."""
    sentry, app = Ingest(), web.Application()
    app.router.add_post("/api/1/envelope/", sentry.take)
    server = await aiohttp_server(app)
    sentry.dsn = f"http://key:{CANARY}@127.0.0.1:{server.port}/1"
    return sentry


@pytest.fixture
def hanging() -> Iterator[str]:
    """The DSN of a Sentry that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"http://key@127.0.0.1:{sock.getsockname()[1]}/1"


@pytest.fixture
def absent() -> str:
    """The DSN of a Sentry that is not there."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"http://key@127.0.0.1:{sock.getsockname()[1]}/1"


@asynccontextmanager
async def reporting(dsn: str) -> AsyncIterator[None]:
    """Report while the block runs; on leaving, the last ones are sent while the ingest can answer."""
    reports = error_reports(dsn, clock=lambda: 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.error_reports.LAST_WORDS", 20.0)  # they may take long on a busy machine
        reports.__enter__()
        try:
            yield
        finally:
            await asyncio.to_thread(reports.__exit__, None, None, None)


async def broken(request: web.Request) -> web.Response:
    """A handler with a bug, which has everything from the caller at hand, and says it."""
    request[EXCHANGE].route = "broken"
    secret = f"{await request.text()} {request.rel_url} {request.headers!r} {request.match_info['part']}"
    try:
        json.loads(secret)
    except ValueError as error:
        error.add_note(secret)
        raise ExceptionGroup(secret, [LookupError(secret), OSError(5, secret, secret)]) from error
    raise AssertionError("it is no JSON")


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> Client:
    """A client of the application, one of whose routes is broken."""
    settings = load_settings({"DOWNLOADS": "off"})
    app = create_app(settings, load_table(ROUTES.read_text("utf-8"), settings.environ))
    app.router.add_post("/broken/{part}", broken)
    return await aiohttp_client(app)


def bug_in(event: Any) -> Any:
    """The exception that was raised; its causes come before it."""
    return event["exception"]["values"][-1]


async def test_a_bug_is_an_event_with_the_id_and_the_route_of_its_request(
    client: Client, ingest: Ingest
) -> None:
    """One event, and the caller is answered as ever."""
    headers = {"X-Request-Id": "abc"}
    async with reporting(ingest.dsn), client.post("/broken/1", headers=headers) as response:
        told = await response.json()
        assert response.status == 500
    assert (told["error"], told["requestId"]) == ("Internal Server Error", "abc")
    [event] = ingest.events()
    assert event["tags"] == {"request_id": "abc", "route": "broken"}
    assert event["logentry"]["message"] == "a bug: the request %s failed"
    assert (event["level"], event["logger"], event["release"]) == ("error", "hedgerow.server", __version__)
    types = Counter(one["type"] for one in event["exception"]["values"])
    assert types == {"ExceptionGroup": 1, "LookupError": 1, "OSError": 1, "JSONDecodeError": 1}


async def test_a_stack_trace_has_the_lines_of_the_source_and_no_variables(
    client: Client, ingest: Ingest
) -> None:
    """The lines are what we wrote; the variables are what callers sent."""
    async with reporting(ingest.dsn), client.post("/broken/1") as response:
        await response.read()
    [event] = ingest.events()
    frames = [
        frame for one in event["exception"]["values"] for frame in one.get("stacktrace", {}).get("frames", [])
    ]
    assert "json.loads(secret)" in {frame["context_line"].strip() for frame in frames}
    assert not any("vars" in frame for frame in frames)
    assert not any(frame.get("in_app") for frame in frames if frame["module"].startswith("json"))


@pytest.mark.fault(101)
async def test_no_secret_of_a_caller_is_in_an_event(client: Client, ingest: Ingest) -> None:
    """Not from query, path, headers, body or a malformed request id, which the exceptions all quote."""
    headers = {"Authorization": CANARY, "Cookie": f"a={CANARY}", "X-Request-Id": f"{CANARY} {CANARY}"}
    path = f"/broken/{CANARY}?token={CANARY}"
    async with reporting(ingest.dsn), client.post(path, headers=headers, data=CANARY) as response:
        assert response.status == 500
    [raw] = ingest.raw
    assert b"LookupError" in raw
    assert CANARY.encode() not in raw


async def test_what_our_loggers_log_as_an_error_is_an_event_and_nothing_else_is(ingest: Ingest) -> None:
    """Jobs and webhooks have no request. Of what is put into the text nothing is told."""
    async with reporting(ingest.dsn):
        try:
            raise KeyError(CANARY)
        except KeyError:
            log.exception("job %s has failed", CANARY)
        log.error("the store is away: %s", CANARY, extra={"password": CANARY})
        log.warning("not at this level")
        logging.getLogger("asyncio").error("not ours")
        logging.getLogger("hedgerowing").error("not ours either")
    first, second = ingest.events()
    assert (first["logentry"]["message"], bug_in(first)["type"]) == ("job %s has failed", "KeyError")
    assert (second["logentry"]["message"], second.get("exception")) == ("the store is away: %s", None)
    assert CANARY.encode() not in b"".join(ingest.raw)
    assert logging.getLogger("hedgerow").handlers == []


def test_the_text_of_every_error_in_the_log_is_a_constant() -> None:
    """Or what is put into it by other means than arguments would be told to Sentry."""
    calls = [
        (path.name, call.args[0])
        for room in ("server", "upstream", "strategies")
        for path in (ROOT / room).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("error", "exception", "critical")
        and ast.unparse(call.func.value).endswith("log")
    ]
    assert len(calls) > 3
    assert [(name, ast.unparse(text)) for name, text in calls if not isinstance(text, ast.Constant)] == []


@pytest.mark.fault(103)
async def test_a_storm_of_bugs_is_told_in_part_and_counted(ingest: Ingest) -> None:
    """Sentry hears how many there were beside."""
    async with reporting(ingest.dsn):
        for _ in range(AT_ONCE + 30):
            log.error("again")
    assert len(ingest.events()) == AT_ONCE
    lost = [one for kind, item in ingest.items if kind == "client_report" for one in item["discarded_events"]]
    assert sum(one["quantity"] for one in lost if one["category"] == "error") == 30


def test_the_allowance_fills_up_with_time_and_never_beyond_its_burst() -> None:
    """Two at once, then one for each second, and after an hour still two at once."""
    allowance = Allowance(2, 1.0, now=0.0)
    assert [allowance.take(now) for now in (0.0, 0.0, 0.0, 0.5, 1.0, 1.5)] == [
        True,
        True,
        False,
        False,
        True,
        False,
    ]
    assert [allowance.take(3600.0) for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize("sentry", ["hanging", "absent"])
@pytest.mark.fault(104)
async def test_a_sentry_that_is_ill_delays_no_answer_and_is_not_spoken_of(
    client: Client,
    sentry: str,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Sending takes as long as it takes, beside; the end waits for it within its bound."""
    slowest = 0.0
    reports = error_reports(request.getfixturevalue(sentry))
    with caplog.at_level(logging.INFO), reports:
        for _ in range(2 * AT_ONCE):
            began = time.monotonic()
            async with client.post("/broken/1") as response:
                assert response.status == 500
                await response.read()
            slowest = max(slowest, time.monotonic() - began)
        began = time.monotonic()
    assert max(slowest, time.monotonic() - began) < 20.0  # who waited for Sentry would wait 30 s
    assert {record.name for record in caplog.records if record.levelno > logging.INFO} <= {
        "hedgerow.server",
        "hedgerow.access",
    }
    assert "sentry" not in capfd.readouterr().err.lower()


def test_without_a_dsn_nothing_is_even_imported() -> None:
    """Its import takes longer than that of any other module."""
    text = (
        "import sys, server.__main__ as main, server.error_reports as reports\n"
        "main.configure(main.parse([]))\n"
        "with reports.error_reports(None): pass\n"
        "sys.exit('sentry_sdk' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", text], cwd=ROOT, env={}, check=False).returncode == 0


@pytest.mark.parametrize(
    "dsn",
    [
        CANARY,
        f"https://{CANARY}",
        f"https://example.com/{CANARY}",
        f"https://key@example.com/{CANARY}",
        f"https://{CANARY}@example.com:99999/1",
        f"ftp://{CANARY}@example.com/1",
        f"https://{CANARY}@/1",
    ],
)
def test_a_bad_dsn_stops_the_start_with_2_and_is_not_repeated(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One line that names the variable."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SENTRY_DSN", dsn)
    assert main([]) == EXIT_CONFIG
    assert capsys.readouterr().err == "SENTRY_DSN: Must be https://KEY@HOST/PROJECT, as Sentry shows it.\n"


@pytest.mark.fault(101)
def test_a_dsn_is_not_in_the_settings_as_they_are_shown() -> None:
    """It is a secret."""
    settings = load_settings({"SENTRY_DSN": f"https://{CANARY}@example.com/1"})
    assert settings.sentry_dsn == f"https://{CANARY}@example.com/1"
    assert CANARY not in repr(settings)


BROKEN_SERVER = """
import os, sys
from server.__main__ import main
from server.handlers import FanOutHandler

async def body(self, exchange, query):
    exchange.route = "first"
    raise type(f"In{os.getpid()}", (Exception,), {})

FanOutHandler.body = body
sys.exit(main(["--port", "0", "--workers", "2"]))
"""


@asynccontextmanager
async def process(*command: str, cwd: Path, **environ: str) -> AsyncIterator[str]:
    """Python with *command*, which is a server; yields its URL. It ends with the block, and by itself."""
    given = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "DRAIN_DELAY_MS": "0", **environ}
    child = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=cwd, env=given, stderr=PIPE, limit=1024 * 1024
    )
    assert child.stderr is not None
    try:
        url = ""
        while not url:
            url = json.loads(await child.stderr.readline()).get("url", "")
        yield url
        child.terminate()
        _, err = await child.communicate()
        assert child.returncode == 0
        assert CANARY not in err.decode()
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()


@pytest.mark.fault(88)
async def test_each_worker_reports(ingest: Ingest, tmp_path: Path) -> None:
    """A thread that sends does not survive a fork, so each has its own."""
    off = {"DOWNLOADS": "off", "SENTRY_DSN": ingest.dsn}
    async with process("-c", BROKEN_SERVER, cwd=tmp_path, **off) as url:
        both = asyncio.create_task(ingest.kinds_of_bugs(2), name="both")
        while not both.done():
            async with aiohttp.ClientSession() as session, session.get(f"{url}/api/first") as response:
                assert response.status == 500
    assert {event["tags"]["route"] for event in ingest.events()} == {"first"}
    frames = bug_in(ingest.events()[0])["stacktrace"]["frames"]
    assert {frame["in_app"] for frame in frames if frame["module"].startswith("server.")} == {True}


async def test_a_caller_may_try_whether_errors_are_reported(ingest: Ingest, tmp_path: Path) -> None:
    """As the contract of the download API has it."""
    async with (
        process("-m", "server", "--port", "0", cwd=tmp_path, SENTRY_DSN=ingest.dsn) as url,
        aiohttp.ClientSession(url) as session,
        session.post("/v1/download/check?sentry_test=true", json={"file_id": 70000}) as response,
    ):
        told = await response.json()
        await ingest.kinds_of_bugs(1)
    assert response.status == 500
    assert {"error", "message", "requestId"} <= told.keys()
    [event] = ingest.events()
    assert event["tags"] == {"request_id": told["requestId"], "route": "download.check"}
    assert bug_in(event)["type"] == "SentryTest"
