"""Downloads through nginx, with the configuration of docs/how-to/behind-nginx; some with shorter timeouts."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest
import redis
from aiohttp import web
from aiohttp.test_utils import TestServer

from server.downloads import handlers
from server.downloads.sse import Manner, stream
from tests.downloads.whole import BASE, Files, Site, Told, be_patient, events_of, hosted, source_of_files
from tests.integration.nginx import Nginx, nginx
from tests.job_store.stores import Valkey, valkey
from tests.server.raw import until
from upstream.simulator.files import archive

pytestmark = pytest.mark.system

TIMEOUT = 2
"""Seconds that nginx waits for the next bytes of an answer where a test wants it to give up; else 30."""
LARGE = 1_500_000
"""Bytes; more than the server takes, and not more than nginx does."""
PATIENT = {"REQUEST_TIMEOUT_MS": "700"}
"""Of a server that gives up before nginx does."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A job store for all tests here."""
    with valkey(tmp_path_factory.mktemp("nginx"), appendfsync="no") as running:
        yield running


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    """A source of files, which holds back what is asked of it until a test lets it go."""
    async with source_of_files() as played:
        played.hold()
        yield played


class Proxied(Site):
    """
    A caller of a server by way of nginx.

    Attributes:
        server: the same, past nginx: for what must not be lost if this machine is slow.
    """

    def __init__(self, server: Site, url: str) -> None:
        super().__init__(server.app, url, server.session)
        self.server = server


class Behind:
    """Starts a server, and nginx in front of it."""

    def __init__(self, folder: Path, **always: str) -> None:
        self._folder = folder
        self._always = always

    @asynccontextmanager
    async def __call__(self, patience: int = 30, **environ: str) -> AsyncIterator[tuple[Proxied, Nginx]]:
        """A caller of the server by way of nginx."""
        given = {**self._always, "TRUSTED_PROXIES": "127.0.0.1", **environ}
        async with hosted(**given) as site:
            with nginx(self._folder / "nginx", port_of(site.url), patience=patience) as proxy:
                yield Proxied(site, proxy.url), proxy


@pytest.fixture
def behind(store: Valkey, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Behind:
    """A server whose heartbeats come before nginx loses patience, as they do with the real times."""
    with redis.Redis.from_url(store.url) as client:
        client.flushall()
    be_patient(monkeypatch)
    beating(monkeypatch, TIMEOUT / 20)
    return Behind(
        tmp_path, REDIS_URL=store.url, DATA_DIR=str(tmp_path / "data"), DOWNLOAD_SOURCE_URL=files.url
    )


def beating(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let streams have a heartbeat so often."""
    monkeypatch.setattr(handlers, "stream", partial(stream, manner=Manner(heartbeat=seconds)))


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


async def comments(response: aiohttp.ClientResponse, seconds: float) -> None:
    """Read on for so long, while nothing but heartbeats come."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        line = await response.content.readline()
        assert line, "the stream has ended"


async def test_a_quiet_stream_outlasts_the_timeouts_and_ends_with_the_job(
    behind: Behind, files: Files
) -> None:
    async with behind(TIMEOUT) as (site, _):
        job_id = await site.server.job(70000)
        async with site.session.get(f"{site.url}{BASE}/subscribe/{job_id}") as response:
            await comments(response, 2.2 * TIMEOUT)
            files.open.set()
            kinds = [event.kind async for event in events_of(response)]
        assert kinds[-1] == "completed"


async def test_without_heartbeats_nginx_cuts_a_quiet_stream_and_the_client_misses_nothing(
    behind: Behind, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    beating(monkeypatch, 100 * TIMEOUT)
    async with behind(TIMEOUT) as (site, _):
        job_id = await site.server.job(70000)
        await site.server.told(job_id, "running")
        async with site.follow(job_id) as events:
            seen = await until_cut(events)
        assert [event.kind for event in seen][:2] == ["queued", "running"]
        files.open.set()
        async with site.follow(job_id, seen[-1].id) as events:
            seen += [event async for event in events]
        assert seen == await site.history(job_id)
        assert seen[-1].kind == "completed"


async def until_cut(events: AsyncIterator[Told]) -> list[Told]:
    """The events up to where the stream breaks, which it has to."""
    seen = []
    try:
        async for event in events:
            seen.append(event)
    except aiohttp.ClientPayloadError:
        return seen
    raise AssertionError("the stream has ended well")


async def test_a_client_goes_on_after_a_reload_of_nginx_and_misses_nothing(
    behind: Behind, files: Files
) -> None:
    async with behind() as (site, proxy):
        job_id = await site.job(70000)
        async with site.follow(job_id) as events:
            seen = [await anext(events)]
            proxy.reload()
            seen += await until_cut(events)
        files.open.set()
        async with site.follow(job_id, seen[-1].id) as events:
            seen += [event async for event in events]
        assert seen == await site.history(job_id)
        assert seen[-1].kind == "completed"


async def test_a_server_that_gives_up_before_nginx_links_to_the_job(behind: Behind, files: Files) -> None:
    async with behind(30, **PATIENT) as (site, _):
        answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70000})
        assert (answer.status, answer.told["code"]) == (504, "timeout")
        assert answer.headers["Location"] == answer.told["links"]["status"]
        files.open.set()
        assert (await site.ended(answer.told["jobId"]))["status"] == "completed"


async def test_if_nginx_gives_up_first_the_job_goes_on_and_the_same_key_finds_it(
    behind: Behind, files: Files
) -> None:
    async with behind(TIMEOUT, REQUEST_TIMEOUT_MS="30000") as (site, _):
        body = {"file_id": 70000}
        answer = await site.ask(
            "POST", f"{BASE}/start", body, Idempotency_Key="k", X_Request_Id="test-request-id-12345"
        )
        assert (answer.status, answer.headers["Content-Type"]) == (504, "application/problem+json")
        assert (answer.told["status"], answer.told["requestId"]) == (504, "test-request-id-12345")
        assert "links" not in answer.told
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        files.open.set()
        [job] = (await site.server.get(f"{BASE}/jobs")).told["jobs"]
        await site.server.ended(job["jobId"])
        answer = await site.ask("POST", f"{BASE}/start", body, Idempotency_Key="k")
        assert (answer.status, answer.told["status"]) == (200, "completed")
        assert len((await site.server.get(f"{BASE}/jobs")).told["jobs"]) == 1


async def test_who_prefers_not_to_wait_gets_202_in_time(behind: Behind) -> None:
    async with behind(REQUEST_TIMEOUT_MS="30000") as (site, _):
        answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70000}, Prefer="respond-async, wait=0")
        assert (answer.status, answer.headers["Location"]) == (202, answer.told["links"]["status"])


async def test_a_link_leads_through_nginx_and_gives_a_part_of_the_file(behind: Behind, files: Files) -> None:
    files.open.set()
    async with behind() as (site, _):
        job_id = await site.completed(70000)
        [file] = (await site.get(f"{BASE}/{job_id}")).told["files"]
        assert file["downloadUrl"].startswith(f"{site.url}/"), "the link leads past nginx"
        link = file["downloadUrl"].removeprefix(site.url)
        part = await site.get(link, Range="bytes=1000-2999")
        assert (part.status, part.body) == (206, archive(70000)[1000:3000])
        whole = await site.get(link)
        assert (whole.status, whole.body) == (200, archive(70000))


async def test_clients_are_told_apart_by_their_addresses_and_not_by_what_they_say(behind: Behind) -> None:
    async with behind(RATE_LIMIT="on", RATE_LIMIT_MAX_REQUESTS="3") as (site, _):
        found = [await asked_from("127.0.0.2", site, f"203.0.113.{number}") for number in range(4)]
        assert found == [200, 200, 200, 429]
        assert await asked_from("127.0.0.3", site, "127.0.0.2") == 200


async def asked_from(address: str, site: Site, forwarded_for: str, path: str = "/") -> int:
    """The status for a caller at that address of loopback, who claims to be another."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(site.url + path, headers={"X-Forwarded-For": forwarded_for}) as response,
    ):
        return response.status


async def test_metrics_are_for_this_machine_only(behind: Behind) -> None:
    async with behind() as (site, _):
        assert await asked_from("127.0.0.1", site, "", "/metrics") == 200
        assert await asked_from("127.0.0.2", site, "127.0.0.1", "/metrics") == 403


async def test_a_request_has_the_same_id_everywhere(behind: Behind) -> None:
    async with behind() as (site, proxy):
        given = ["test-request-id-12345", "", "no id"]
        told = [(await site.get("/health", X_Request_Id=one)).headers["X-Request-Id"] for one in given]
        assert told[0] == given[0]
        assert all(one.isalnum() and len(one) == 32 for one in told[1:])
        async with asyncio.timeout(10):
            await until(lambda: [line.split()[-1] for line in proxy.log.splitlines()] == told)


async def test_a_preflight_and_a_body_that_is_too_large_are_answered_by_the_server(behind: Behind) -> None:
    async with behind() as (site, _):
        asked = {"Origin": "https://app.example", "Access_Control_Request_Method": "POST"}
        answer = await site.ask("OPTIONS", f"{BASE}/initiate", **asked)
        assert answer.status == 204
        allowed = answer.headers["Access-Control-Allow-Headers"]
        assert {"Idempotency-Key", "Prefer", "Last-Event-ID", "Content-Type"} <= set(allowed.split(", "))
        headers = {"Content-Type": "application/json"}
        async with site.session.post(
            f"{site.url}{BASE}/initiate", data=io.BytesIO(b" " * LARGE), headers=headers
        ) as refused:
            assert (refused.status, refused.content_type) == (413, "application/problem+json")


class Server:
    """
    A server that closes its connections in place of answers, or gives them.

    Attributes:
        methods: of the requests that have come.
        connections: by which they came.
    """

    def __init__(self, *, answers: bool) -> None:
        self.methods: list[str] = []
        self.connections: set[object] = set()
        self._answers = answers
        self.app = web.Application()
        self.app.router.add_route("*", "/{path:.*}", self._take)

    async def _take(self, request: web.Request) -> web.Response:
        self.methods.append(request.method)
        self.connections.add(request.transport)
        if not self._answers:
            assert request.transport is not None
            request.transport.abort()
        return web.Response()


async def test_a_post_is_sent_once_and_what_may_be_repeated_goes_to_another_server(tmp_path: Path) -> None:
    one, other = Server(answers=False), Server(answers=False)
    async with (
        TestServer(one.app) as first,
        TestServer(other.app) as second,
        aiohttp.ClientSession() as session,
    ):
        assert first.port is not None
        assert second.port is not None
        with nginx(tmp_path / "nginx", first.port, second.port) as proxy:
            for method, sent in (("POST", 1), ("GET", 2)):
                async with session.request(method, f"{proxy.url}/x") as response:
                    assert (response.status, (await response.json())["status"]) == (502, 502)
                assert (one.methods + other.methods).count(method) == sent


async def test_connections_to_the_server_are_used_again(tmp_path: Path) -> None:
    server = Server(answers=True)
    async with TestServer(server.app) as running, aiohttp.ClientSession() as session:
        assert running.port is not None
        with nginx(tmp_path / "nginx", running.port) as proxy:
            for _ in range(5):
                async with session.get(f"{proxy.url}/x") as response:
                    assert response.status == 200
    assert len(server.methods) == 5
    assert len(server.connections) == 1
