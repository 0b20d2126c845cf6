"""Stores that go away, hang, refuse or are full: what callers are told, and that jobs go on after it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from server.downloads import channels, engine, rescue, work
from server.downloads.handlers import faults
from server.downloads.objects import StoreFull, StoreUnavailable
from server.errors import Problem
from server.job_store.opening import JobStoreDown, JobStoreFull
from server.lifespan import DOWNLOADS, Trial
from tests.downloads.conftest import Start
from tests.downloads.places import fetch
from tests.downloads.whole import BASE, Answer, Files, Site, be_patient, whole
from tests.job_store.stores import Valkey, valkey
from tests.server.raw import until
from upstream.simulator.files import archive

PATIENCE = 4.0
"""Seconds that the job store has for an answer."""
SOON = 15.0
"""Seconds in which every route answers, whatever a store does, on a busy machine too."""
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs is given up, if not as soon as in production."""
    be_patient(monkeypatch, PATIENCE)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Valkey]:
    """A job store of one's own, to be harmed."""
    with valkey(tmp_path / "valkey", appendfsync="always") as own:
        yield own


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work is taken up again soon after an outage."""
    monkeypatch.setattr(engine, "REDELIVERY", 1.0)
    monkeypatch.setattr(engine, "RESTART", 0.2)
    monkeypatch.setattr(channels, "LONGEST_PAUSE", 0.2)
    monkeypatch.setattr(work, "pause", lambda look, rng: 0.05)


@asynccontextmanager
async def in_front_of(store: Valkey, folder: Path, **environ: str) -> AsyncIterator[Site]:
    """The application with that job store."""
    async with whole(REDIS_URL=store.url, DATA_DIR=str(folder / "data"), **environ) as site:
        yield site


async def all_routes(site: Site, job_id: str) -> dict[str, Answer]:
    """What each route of a job answers, asked at once; none takes long."""
    asked = {
        "initiate": site.initiate(70000),
        "start": site.ask("POST", f"{BASE}/start", {"file_id": 70000}),
        "status": site.get(f"{BASE}/status/{job_id}"),
        "result": site.get(f"{BASE}/{job_id}"),
        "subscribe": site.ask("HEAD", f"{BASE}/subscribe/{job_id}"),
        "cancel": site.ask("DELETE", f"{BASE}/{job_id}"),
        "jobs": site.get(f"{BASE}/jobs"),
    }
    async with asyncio.timeout(SOON):
        answers = await asyncio.gather(*asked.values())
    return dict(zip(asked, answers, strict=True))


def require_problem(answer: Answer, status: int, code: str) -> None:
    """A problem document that says when to come again."""
    assert (answer.status, answer.told["code"]) == (status, code), answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert int(answer.headers["Retry-After"]) >= 1


async def require_work(site: Site) -> None:
    """`/api/*` does not notice: what waited for a store would wait for its whole patience, each time."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert (await site.get("/api/first")).status == 200
        took.append(time.monotonic() - began)
    assert min(took) < PATIENCE / 4


@contextmanager
def harmed(store: Valkey, how: str) -> Iterator[None]:
    """The store does not answer inside the block, and is well after it."""
    harm, heal = {"killed": (store.kill, store.start), "frozen": (store.freeze, store.thaw)}[how]
    harm()
    yield
    heal()


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.fault(92)
async def test_while_the_job_store_is_away_callers_are_told_so_and_jobs_go_on_after_it(
    store: Valkey, files: Files, tmp_path: Path, impatient: None, how: str
) -> None:
    files.hold()
    async with in_front_of(store, tmp_path, DOWNLOAD_SOURCE_URL=files.url) as site:
        running, queued = await site.job(70000), await site.job(70007)
        await files.asked.wait()
        with harmed(store, how):
            answers = await all_routes(site, running)
            assert {name: answer.status for name, answer in answers.items()} == dict.fromkeys(answers, 503)
            del answers["subscribe"]  # it has no body
            for answer in answers.values():
                require_problem(answer, 503, "job_store_unavailable")
            assert (await site.ask("POST", f"{BASE}/check", {"file_id": 70000})).status == 200
            health = await site.get("/health")
            assert (health.status, health.told["checks"]["jobs"]) == (503, "error")
            await require_work(site)
        files.open.set()
        for job_id in (running, queued):
            assert (await site.ended(job_id))["status"] == "completed"
            assert [event.kind for event in await site.history(job_id)].count("completed") == 1
        assert (await site.get("/health")).told["status"] == "healthy"
        assert (await site.initiate(70014)).status == 200


@pytest.mark.parametrize("how", ["killed", "frozen"])
@pytest.mark.fault(92)
async def test_while_the_job_store_is_away_clients_are_limited_by_the_server_alone(
    store: Valkey, tmp_path: Path, how: str
) -> None:
    limits = {"RATE_LIMIT": "on", "RATE_LIMIT_MAX_REQUESTS": "3"}
    async with in_front_of(store, tmp_path, **limits) as site:
        assert (await site.get("/")).headers["RateLimit-Remaining"] == "2"
        with harmed(store, how):
            answers = [await site.get("/", X_Forwarded_For=f"203.0.113.{number}") for number in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
        require_problem(answers[-1], 429, "rate_limited")


async def test_a_job_store_that_takes_nothing_new_still_tells_what_it_knows(
    store: Valkey, files: Files, tmp_path: Path, impatient: None
) -> None:
    files.hold()
    async with in_front_of(store, tmp_path, DOWNLOAD_SOURCE_URL=files.url) as site:
        job_id = await site.job()
        await files.asked.wait()
        with redis.Redis.from_url(store.url) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            answers = await all_routes(site, job_id)
            for name in ("initiate", "start", "cancel"):
                require_problem(answers[name], 503, "job_store_unavailable")
            told = ("status", "result", "jobs", "subscribe")
            assert [answers[name].status for name in told] == [200, 409, 200, 200]
            client.execute_command("REPLICAOF", "NO", "ONE")
        files.open.set()
        assert (await site.ended(job_id))["status"] == "completed"


@pytest.mark.fault(92)
async def test_a_job_store_without_room_is_507_and_jobs_go_on_when_there_is_room(
    store: Valkey, files: Files, tmp_path: Path, impatient: None
) -> None:
    files.hold()
    async with in_front_of(store, tmp_path, DOWNLOAD_SOURCE_URL=files.url) as site:
        job_id = await site.job()
        await files.asked.wait()
        with redis.Redis.from_url(store.url) as client:
            client.config_set("maxmemory", "1mb")
            for path, body in (("initiate", {"file_ids": [70007]}), ("start", {"file_id": 70007})):
                answer = await site.ask("POST", f"{BASE}/{path}", body)
                require_problem(answer, 507, "job_store_full")
            assert (await site.status(job_id))["status"] == "running"
            files.open.set()
            # Its run goes on to where it has something to write down, unless it was given up before that.
            async with asyncio.timeout(SOON):
                await until(lambda: files.answered.is_set() or files.gone.is_set())
            client.config_set("maxmemory", "0")
        assert (await site.ended(job_id))["status"] == "completed"


@pytest.mark.fault(92)
async def test_a_record_that_somebody_has_spoilt_is_a_503_of_its_own_and_harms_no_other(
    store: Valkey, files: Files, tmp_path: Path
) -> None:
    files.hold()
    async with in_front_of(store, tmp_path, DOWNLOAD_SOURCE_URL=files.url) as site:
        spoilt, other = await site.job(70000), await site.job(70007)
        with redis.Redis.from_url(store.url) as client:
            client.set(f"hedgerow:record:{spoilt}", "nonsense")
        for path in (f"status/{spoilt}", spoilt, f"subscribe/{spoilt}"):
            require_problem(await site.get(f"{BASE}/{path}"), 503, "job_store_unavailable")
        require_problem(await site.cancel(spoilt), 503, "job_store_unavailable")
        files.open.set()
        assert (await site.ended(other))["status"] == "completed"


async def test_a_start_that_the_job_store_leaves_alone_says_where_its_job_is_to_be_found(
    store: Valkey, files: Files, tmp_path: Path, impatient: None
) -> None:
    files.hold()
    async with in_front_of(store, tmp_path, DOWNLOAD_SOURCE_URL=files.url, REQUEST_TIMEOUT_MS="1000") as site:
        asking = asyncio.create_task(site.ask("POST", f"{BASE}/start", {"file_id": 70000}))
        await files.asked.wait()
        with harmed(store, "killed"):
            answer = await asking
        assert (answer.status, answer.told["code"]) == (504, "timeout")
        files.open.set()
        assert (await site.ended(answer.told["jobId"]))["status"] == "completed"


async def test_a_stream_that_is_open_outlives_the_job_store_and_misses_nothing(
    store: Valkey, files: Files, tmp_path: Path, impatient: None
) -> None:
    files.hold()
    async with in_front_of(store, tmp_path, DOWNLOAD_SOURCE_URL=files.url) as site:
        job_id = await site.job()
        async with site.follow(job_id) as events:
            seen = [await anext(events), await anext(events)]
            with harmed(store, "killed"):
                files.open.set()
                await require_work(site)
            seen += [event async for event in events]
        assert seen == await site.history(job_id)
        assert seen[-1].kind == "completed"


@pytest.mark.fault(87)
async def test_a_server_starts_without_its_job_store_and_works_once_it_is_there(
    store: Valkey, tmp_path: Path, impatient: None
) -> None:
    store.kill()
    async with in_front_of(store, tmp_path) as site:
        require_problem(await site.initiate(70000), 503, "job_store_unavailable")
        await require_work(site)
        store.start()
        await site.completed(70000)


async def test_a_job_that_was_written_down_and_not_queued_is_accepted_and_done(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its caller was told 503, and who asked again without an Idempotency-Key had two jobs."""
    monkeypatch.setattr(rescue, "EVERY", 0.05)
    monkeypatch.setattr(rescue, "SILENT", 0.0)

    def fail(step: str) -> None:
        if step == "put":
            raise JobStoreDown("It went away between the two.")

    site = await start(Trial(step=fail))
    answer = await site.initiate(70000)
    assert answer.status == 200
    [job] = (await site.get(f"{BASE}/jobs")).told["jobs"]
    assert job["jobId"] == answer.told["jobId"]
    assert (await site.ended(job["jobId"]))["status"] == "completed"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (JobStoreDown("It is away."), 503, "job_store_unavailable"),
        (JobStoreFull("It is full."), 507, "job_store_full"),
        (redis.ResponseError("WRONGTYPE"), 503, "job_store_unavailable"),
        (StoreUnavailable("It is away."), 503, "storage_unavailable"),
        (StoreFull("It is full."), 507, "storage_full"),
    ],
)
def test_each_fault_of_a_store_has_its_status_and_says_when_to_come_again(
    fault: Exception, status: int, code: str
) -> None:
    with pytest.raises(Problem) as caught, faults():
        raise fault
    assert (caught.value.status, caught.value.code) == (status, code)
    assert int(caught.value.headers["Retry-After"]) >= 1
    assert "WRONGTYPE" not in caught.value.detail


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the objects of `site` are."""
    return tmp_path / "data" / "objects"


@contextmanager
def spoiled(folder: Path) -> Iterator[None]:
    """A plain file is where *folder* should be."""
    away = folder.with_name("away")
    folder.rename(away)
    folder.touch()
    yield
    folder.unlink()
    away.rename(folder)


def was_put_back(found: Any) -> bool:
    """Whether the job has met the store that failed."""
    return bool(found["runs"] >= 2)


@pytest.mark.fault(91)
async def test_while_the_object_folder_is_broken_health_says_so_and_jobs_wait(
    site: Site, folder: Path, impatient: None
) -> None:
    before = await site.completed(70007)
    [link] = (await site.get(f"{BASE}/{before}")).told["files"]
    with spoiled(folder):
        health = await site.get("/health")
        assert (health.status, health.told["status"], health.told["checks"]["storage"]) == (
            503,
            "unhealthy",
            "error",
        )
        require_problem(
            await site.ask("POST", f"{BASE}/check", {"file_id": 70000}), 503, "storage_unavailable"
        )
        gone = await fetch(link["downloadUrl"])
        assert (gone.status, gone.headers["Retry-After"]) == (503, "5")
        job_id = await site.job(70000)
        await site.when(job_id, was_put_back)
        await require_work(site)
    assert (await site.ended(job_id))["status"] == "completed"
    assert (await site.get("/health")).told["checks"]["storage"] == "ok"
    assert (await fetch(link["downloadUrl"])).body == archive(70007)


@pytest.mark.fault(91)
async def test_while_the_disk_is_full_jobs_wait_and_what_is_there_can_be_had(
    site: Site, impatient: None
) -> None:
    before = await site.completed(70007)
    local = site.app[DOWNLOADS].local
    assert local is not None
    objects, _ = local
    reserve, objects._reserve = objects._reserve, 2**62
    assert (await site.get("/health")).told["checks"]["storage"] == "error"
    job_id = await site.job(70000)
    await site.when(job_id, was_put_back)
    [link] = (await site.get(f"{BASE}/{before}")).told["files"]
    assert (await fetch(link["downloadUrl"])).body == archive(70007)
    objects._reserve = reserve
    assert (await site.ended(job_id))["status"] == "completed"
    assert (await site.get("/health")).told["checks"]["storage"] == "ok"


@pytest.mark.fault(90)
async def test_an_object_store_that_stays_away_fails_the_job_and_says_why(
    site: Site, folder: Path, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "MOST_LOOKS", 2)
    await site.completed(70007)
    with spoiled(folder):
        told = await site.ended(await site.job(70000))
    assert (told["status"], told["error"]) == ("failed", "The folder of the object store cannot be used.")
    assert told["runs"] == 3


async def test_a_source_that_fails_now_and_then_is_asked_again(files: Files, start: Start) -> None:
    files.service.drop = 0.2
    site = await start(DOWNLOAD_SOURCE_URL=files.url)
    job_id = await site.completed(70000)
    [link] = (await site.get(f"{BASE}/{job_id}")).told["files"]
    assert (await fetch(link["downloadUrl"])).body == archive(70000)
