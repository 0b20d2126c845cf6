"""Rate limits, counted in a real Valkey: shared by all workers, and still there when it is not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import redis
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client import CollectorRegistry
from yarl import URL

from server.access_log import AccessLog
from server.clients import Clients, parse_networks
from server.edge import Edge, decorate_all, middleware
from server.headers import Decorator
from server.lifecycle import Lifecycle
from server.rate_limits import (
    CLOSES_WITHIN,
    OwnCounts,
    Rate,
    RateLimiter,
    Standing,
    headers_of,
    limit_rates,
    open_rate_limiter,
    refusal,
)
from server.telemetry import Telemetry
from tests.job_store.stores import Valkey, valkey

RATE = Rate(100, 60)
SOON = 0.02
"""Seconds between two looks at a store that is away."""
LONG = 30.0
"""Seconds of patience where nothing hangs: how busy the machine is must not matter."""
BRIEF = 0.6
"""And where something does."""


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A store that no test does any harm to; one for all tests of a process."""
    with valkey(tmp_path_factory.mktemp("valkey")) as store:
        yield store


@pytest.fixture
def store(running: Valkey) -> Valkey:
    """The same, with nothing in it."""
    with redis.Redis.from_url(running.url) as client:
        client.flushall()
    return running


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[Valkey]:
    """A store for this test alone, to be killed and frozen."""
    with valkey(tmp_path / "valkey") as store:
        yield store


@pytest.fixture
async def workers(store: Valkey) -> AsyncIterator[list[RateLimiter]]:
    """The limiters of four workers on one store."""
    async with limiters(store.url) as found:
        yield found


@asynccontextmanager
async def limiters(url: str, number: int = 4, patience: float = LONG) -> AsyncIterator[list[RateLimiter]]:
    """So many limiters on the store at *url*, closed with the block."""
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("server.rate_limits.CLOSES_WITHIN", max(patience, CLOSES_WITHIN))
        yield [
            await stack.enter_async_context(open_rate_limiter(RATE, url, time.monotonic, patience, SOON))
            for _ in range(number)
        ]


async def hits(workers: list[RateLimiter], number: int, client: str = "203.0.113.9") -> list[Standing]:
    """So many requests of *client* at once, dealt out to the *workers*."""
    return await asyncio.gather(*(workers[turn % len(workers)].hit(client) for turn in range(number)))


@contextmanager
def hanging(store: Valkey, worker: RateLimiter) -> Iterator[None]:
    """The store hangs while the block runs, and only then is *worker* less patient with it."""
    store.freeze()
    worker._patience = BRIEF
    try:
        yield
    finally:
        worker._patience = LONG
        store.thaw()


def allowed(standings: list[Standing]) -> int:
    """How many of them were."""
    return sum(standing.allowed for standing in standings)


async def until(so: Callable[[], object]) -> None:
    """Wait until it is *so*, which is up to another process."""
    async with asyncio.timeout(10):
        while not so():  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.005)


async def settled(workers: list[RateLimiter], *, away: bool) -> None:
    """Wait until all of them know whether the store is away."""
    await until(lambda: {worker.away for worker in workers} == {away})


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of rate limits."""
    return [text for record in caplog.records if "rate limits" in (text := record.getMessage())]


def test_the_headers_tell_the_policy_and_the_standing_in_whole_seconds_rounded_up() -> None:
    assert headers_of(Standing(True, RATE, 42, 17.001)) == {
        "RateLimit-Policy": "100;w=60",
        "RateLimit-Limit": "100",
        "RateLimit-Remaining": "42",
        "RateLimit-Reset": "18",
    }


def test_a_refusal_is_a_429_that_says_when_to_come_back() -> None:
    problem = refusal(Standing(False, RATE, 0, 17.001))
    assert (problem.status, problem.code, problem.headers) == (429, "rate_limited", {"Retry-After": "18"})
    assert refusal(Standing(False, RATE, 0, 0.0)).headers == {"Retry-After": "1"}


async def test_one_client_gets_the_limit_and_is_told_what_is_left(workers: list[RateLimiter]) -> None:
    first = [await workers[0].hit("203.0.113.9") for _ in range(100)]
    assert [standing.remaining for standing in first] == [*range(99, -1, -1)]
    assert all(standing.allowed and 50 < standing.reset <= 60 for standing in first)
    beyond = await workers[0].hit("203.0.113.9")
    assert (beyond.allowed, beyond.remaining) == (False, 0)
    assert 50 < beyond.reset <= first[-1].reset
    assert (await workers[0].hit("203.0.113.10")).remaining == 99


async def test_four_workers_let_the_limit_through_together_and_not_each(workers: list[RateLimiter]) -> None:
    standings = await hits(workers, 400)
    assert allowed(standings) == 100
    assert {standing.remaining for standing in standings if not standing.allowed} == {0}
    assert not any(worker.away for worker in workers)


async def test_a_crowd_of_clients_at_once_is_counted_in_the_store(workers: list[RateLimiter]) -> None:
    crowd = await asyncio.gather(*(hits(workers, 4, f"198.51.100.{number}") for number in range(250)))
    assert {min(one.remaining for one in standings) for standings in crowd} == {96}
    assert not any(worker.away for worker in workers)


async def test_a_window_has_no_seam_at_which_more_than_the_limit_passes(
    workers: list[RateLimiter], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    assert allowed(await hits(workers, 40)) == 40
    passed = 40
    for seconds in (30, 59.9):
        monkeypatch.setattr(time, "time", lambda later=seconds: now + later)
        passed += allowed(await hits(workers, 80))
    assert passed == 100
    monkeypatch.setattr(time, "time", lambda: now + 60.1)
    assert allowed(await hits(workers, 80)) == 40


@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.fault(100)
async def test_a_clock_that_is_put_by_an_hour_keeps_nobody_out(
    workers: list[RateLimiter], monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    assert allowed(await hits(workers, 101)) == 100
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
    standing = await workers[0].hit("203.0.113.9")
    assert (standing.allowed, standing.remaining) == (True, 99)
    assert 50 < standing.reset <= 60


async def test_what_the_store_keeps_of_a_client_goes_with_the_window(
    workers: list[RateLimiter], store: Valkey
) -> None:
    await hits(workers, 3)
    with redis.Redis.from_url(store.url, decode_responses=True) as client:
        keys = [*client.scan_iter("*")]
        assert keys == ["hedgerow:rate:client/203.0.113.9/100/60/second"]
        assert 0 < client.ttl(keys[0]) <= 60


async def test_a_store_that_is_killed_is_done_without_until_it_is_back(
    fragile: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with limiters(fragile.url, 2) as workers:
        assert allowed(await hits(workers, 60)) == 60
        fragile.kill()
        alone = await hits(workers, 400)
        assert allowed(alone) == 200, "each counts for itself"
        await settled(workers, away=True)
        fragile.start()
        await settled(workers, away=False)
        assert allowed(await hits(workers, 400, "198.51.100.1")) == 100, "they count together again"
    told = lines(caplog)
    assert len(told) == 4
    assert sum("are counted in this process: the job store failed (" in line for line in told) == 2
    assert sum("in the job store again" in line for line in told) == 2
    assert not any(record.exc_info for record in caplog.records)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.fault(92)
async def test_a_store_that_hangs_costs_its_bound_once(
    fragile: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with limiters(fragile.url, 1) as workers:
        await hits(workers, 20)
        with hanging(fragile, workers[0]):
            began = time.monotonic()
            assert allowed(await hits(workers, 300)) == 100
            assert BRIEF <= time.monotonic() - began < 10 * BRIEF, "once, and not once in each turn"
            began = time.monotonic()
            for _ in range(300):
                await workers[0].hit("198.51.100.1")
            assert time.monotonic() - began < 10 * BRIEF
            await until(lambda: lines(caplog))
        await settled(workers, away=False)
        assert (await workers[0].hit("198.51.100.2")).remaining == 99
    assert lines(caplog) == [
        "rate limits are counted in this process: the job store did not answer in time",
        "rate limits are counted in the job store again",
    ]


async def test_a_limiter_ends_at_once_though_the_store_hangs(fragile: Valkey) -> None:
    async with limiters(fragile.url, 2, BRIEF) as workers:
        await hits(workers, 20)
        fragile.freeze()
        await hits(workers, 20)
        began = time.monotonic()
    fragile.thaw()
    assert time.monotonic() - began < 10 * CLOSES_WITHIN


async def test_a_store_that_is_not_there_at_first_is_found_later(fragile: Valkey) -> None:
    fragile.kill()
    async with limiters(fragile.url) as workers:
        assert allowed(await hits(workers, 40)) == 40
        await settled(workers, away=True)
        fragile.start()
        await settled(workers, away=False)
        assert allowed(await hits(workers, 400, "198.51.100.1")) == 100


@pytest.mark.parametrize(
    ("name", "sick", "well"),
    [("maxmemory", "1", "0"), ("requirepass", "secret", ""), ("min-replicas-to-write", "1", "0")],
    ids=["full", "locked", "read-only"],
)
async def test_a_store_that_takes_nothing_is_done_without(
    fragile: Valkey, caplog: pytest.LogCaptureFixture, name: str, sick: str, well: str
) -> None:
    with redis.Redis.from_url(fragile.url) as operator:
        operator.config_set(name, sick)
        async with limiters(fragile.url, 1) as workers:
            assert allowed(await hits(workers, 300)) == 100
            await until(lambda: lines(caplog))
            if name == "requirepass":
                operator.execute_command("AUTH", sick)
            operator.config_set(name, well)
            await settled(workers, away=False)
            assert (await workers[0].hit("198.51.100.1")).remaining == 99
    assert len(lines(caplog)) == 2


async def test_what_keeps_this_process_busy_is_not_taken_for_a_slow_store(store: Valkey) -> None:
    async with limiters(store.url, 1) as workers:
        await workers[0].hit("203.0.113.9")
        workers[0]._patience = BRIEF
        asked = asyncio.create_task(workers[0].hit("203.0.113.9"))
        for _ in range(3):
            await asyncio.sleep(0)
            time.sleep(1.1 * BRIEF)  # noqa: ASYNC251 - the process is busy
        assert (await asked).remaining == 98
        assert not workers[0].away


async def test_a_hiccup_of_the_store_is_over_before_anybody_is_told(
    fragile: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    async with limiters(fragile.url, 1) as workers:
        await hits(workers, 20)
        with hanging(fragile, workers[0]):
            assert (await workers[0].hit("203.0.113.9")).remaining == 99, "it is counted in the process"
        await settled(workers, away=False)
        assert (await workers[0].hit("198.51.100.1")).remaining == 99
    assert lines(caplog) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "store:6379", ""])
async def test_what_is_no_address_of_a_store_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        async with open_rate_limiter(RATE, url, time.monotonic):
            pass


async def test_without_a_store_the_process_counts_alone() -> None:
    async with open_rate_limiter(Rate(3, 60), None, time.monotonic) as limiter:
        assert [one.remaining for one in await hits([limiter], 4)] == [2, 1, 0, 0]
        assert not limiter.away


def test_counts_of_this_process_begin_anew_when_the_window_ends() -> None:
    counts = OwnCounts(Rate(2, 60))
    standings = [counts.hit("a", now) for now in (0.0, 10.0, 20.0, 59.9, 60.0)]
    assert [(one.allowed, one.remaining, one.reset) for one in standings] == [
        (True, 1, 60.0),
        (True, 0, 50.0),
        (False, 0, 40.0),
        (False, 0, pytest.approx(0.1)),
        (True, 1, 60.0),
    ]


def test_counts_of_this_process_are_of_so_many_clients_and_windows_that_last() -> None:
    counts = OwnCounts(Rate(1, 60), most=1000)
    for number in range(5000):
        counts.hit(str(number), number / 1000)
    assert len(counts._windows) <= 1001
    assert not counts.hit("4999", 5.0).allowed
    counts.hit("later", 100.0)
    assert [*counts._windows] == ["later"]


class Site:
    """A small application with the edge and the limits of the whole one, and a client of it."""

    def __init__(self, client: TestClient[web.Request, web.Application], read: list[str]) -> None:
        self.client = client
        self.read = read
        """The bodies that a handler has read."""

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str]]:
        """Status and the headers that tell the standing; names in *headers* are written with underscores."""
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        async with self.client.request(method, URL(path, encoded=True), headers=given) as response:
            await response.read()
            told = {name: text for name, text in response.headers.items() if name.startswith("RateLimit")}
            return response.status, told


@asynccontextmanager
async def site(limiter: RateLimiter, trusted: str = "") -> AsyncIterator[Site]:
    """The application, in front of *limiter*."""
    read: list[str] = []

    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(text="hello")

    async def upload(request: web.Request) -> web.StreamResponse:
        read.append(await request.text())
        return web.Response(text="thanks")

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        return response

    async def bug(request: web.Request) -> web.StreamResponse:
        raise ZeroDivisionError

    edge = Edge(Telemetry(CollectorRegistry()), AccessLog("off"), time.monotonic)
    app = web.Application(middlewares=[middleware(edge, Lifecycle())])
    decorate_all(app, Decorator(("*",)))
    limit_rates(app, lambda: limiter, Clients(parse_networks(trusted)))
    for path in (
        "/",
        "/health",
        "/ready",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/api/all",
        "/v1/page",
        "/v1",
    ):
        app.router.add_get(path, page)
    app.router.add_get("/v1/stream", stream)
    app.router.add_get("/v1/bug", bug)
    app.router.add_post("/v1/upload", upload)
    async with TestClient(TestServer(app)) as client:
        yield Site(client, read)


async def test_every_response_below_v1_tells_the_standing(workers: list[RateLimiter]) -> None:
    async with site(workers[0]) as found:
        asked = [
            *(("/", "GET", 200), ("/", "HEAD", 200), ("/v1/page", "GET", 200), ("/v1/stream", "GET", 200)),
            *(("/v1/bug", "GET", 500), ("/v1/nothing", "GET", 404), ("/v1/page", "POST", 405)),
            *(("/%761/page", "GET", 200), ("/v1/page?a=/", "OPTIONS", 405)),
        ]
        for number, (path, method, status) in enumerate(asked, start=1):
            got, told = await found.get(path, method)
            assert got == status, (path, method)
            assert 50 < int(told.pop("RateLimit-Reset")) <= 60
            assert told == {
                "RateLimit-Policy": "100;w=60",
                "RateLimit-Limit": "100",
                "RateLimit-Remaining": str(100 - number),
            }


async def test_other_routes_are_not_limited() -> None:
    async with open_rate_limiter(Rate(1, 60), None, time.monotonic) as limiter, site(limiter) as found:
        assert [(await found.get("/"))[0] for _ in range(3)] == [200, 429, 429]
        for path in ("/health", "/ready", "/metrics", "/docs", "/openapi.json", "/api/all", "/v1"):
            assert [await found.get(path) for _ in range(3)] == [(200, {})] * 3
        assert await found.get("/nothing") == (404, {})


async def test_who_is_over_the_limit_gets_a_problem_document_and_his_body_is_not_read(
    workers: list[RateLimiter],
) -> None:
    async with site(workers[0]) as found:
        async with found.client.post("/v1/upload", data="first") as response:
            assert response.status == 200
        await hits(workers, 100, "127.0.0.1")
        async with found.client.post("/v1/upload", data="second") as response:
            assert response.status == 429
            assert response.content_type == "application/problem+json"
            told = await response.json()
            headers = response.headers
        assert (told["status"], told["code"], told["instance"]) == (429, "rate_limited", "/v1/upload")
        assert headers["Retry-After"] == headers["RateLimit-Reset"]
        assert 50 < int(headers["Retry-After"]) <= 60
        assert (headers["RateLimit-Remaining"], headers["RateLimit-Policy"]) == ("0", "100;w=60")
        assert found.read == ["first"]


async def test_a_browser_that_asks_beforehand_is_not_counted(workers: list[RateLimiter]) -> None:
    async with site(workers[0]) as found:
        asks = {"Origin": "https://example.org", "Access_Control_Request_Method": "POST"}
        assert await found.get("/v1/upload", "OPTIONS", **asks) == (204, {})
        assert (await found.get("/v1/page"))[1]["RateLimit-Remaining"] == "99"


@pytest.mark.fault(33)
async def test_ten_thousand_invented_origins_make_no_difference(workers: list[RateLimiter]) -> None:
    stranger, proxied = Clients(parse_networks("10.0.0.1")), Clients(parse_networks("10.0.0.1"))
    named: Counter[str] = Counter()
    for number in range(10_000):
        invented = f"198.{number >> 8 & 255}.{number & 255}.1"
        named[stranger.client_of("203.0.113.9", [invented])] += 1
        named[proxied.client_of("10.0.0.1", [f"{invented}, 203.0.113.9"])] += 1
    assert named == {"203.0.113.9": 20_000}


@pytest.mark.parametrize("trusted", ["", "192.0.2.1"])
async def test_an_invented_origin_gives_no_new_allowance(workers: list[RateLimiter], trusted: str) -> None:
    async with site(workers[0], trusted) as found:
        await hits(workers, 100, "127.0.0.1")
        for number in range(50):
            invented = f"198.51.100.{number}"
            status, _ = await found.get("/v1/page", X_Forwarded_For=invented, Forwarded=f"for={invented}")
            assert status == 429


async def test_behind_a_trusted_proxy_each_client_has_its_own_allowance(workers: list[RateLimiter]) -> None:
    async with site(workers[0], "127.0.0.0/8") as found:
        for number in range(3):
            _, told = await found.get("/v1/page", X_Forwarded_For=f"1.1.1.1, 203.0.113.{number}")
            assert told["RateLimit-Remaining"] == "99"
        _, told = await found.get("/v1/page", X_Forwarded_For="9.9.9.9, 203.0.113.0")
        assert told["RateLimit-Remaining"] == "98"
