"""An S3 server that goes, hangs or crawls under the whole application: who is told what, and what goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from server.downloads import rescue, s3_objects, work
from tests.downloads.conftest import Start
from tests.downloads.link import Link, link_to
from tests.downloads.places import fetch
from tests.downloads.seaweed import S3Server, Seaweed, seaweed
from tests.downloads.test_api_s3 import settings_for
from tests.downloads.test_outages import require_problem, require_work, was_put_back
from tests.downloads.whole import BASE, Answer, Files, Site
from tests.job_store.stores import eventually
from upstream.simulator import files as simulated
from upstream.simulator.files import archive

SOON = 10.0
"""Seconds in which every route answers, with an S3 server that has one for a small request; a busy machine
takes a few more."""

pytestmark = pytest.mark.usefixtures("descriptions", "impatient")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An S3 server that does not answer is soon left alone, and soon asked again."""
    opened = partial(s3_objects.open_s3_objects, patience=1.0, part_patience=1.5)
    monkeypatch.setattr(s3_objects, "open_s3_objects", opened)
    monkeypatch.setattr(work, "pause", lambda look, rng: 0.05)
    monkeypatch.setattr(rescue, "EVERY", 0.05)
    monkeypatch.setattr(rescue, "PREPARE", 0.05)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """An S3 server to be harmed; whoever does that heals it."""
    with seaweed(tmp_path_factory.mktemp("own-seaweed")) as server:
        yield server


@pytest.fixture
async def link(own: Seaweed) -> AsyncIterator[Link]:
    """A link to it."""
    async with link_to(own.server.port) as made:
        yield made


@asynccontextmanager
async def down(own: Seaweed, link: Link) -> AsyncIterator[None]:
    """The server is killed, and started again."""
    own.kill()
    try:
        yield
    finally:
        await asyncio.to_thread(own.start)


@asynccontextmanager
async def held(own: Seaweed, link: Link) -> AsyncIterator[None]:
    """Nothing comes through."""
    link.hold()
    yield
    link.mend()


@asynccontextmanager
async def crawling(own: Seaweed, link: Link) -> AsyncIterator[None]:
    """It comes, a byte at a time: no answer is silent for long, and none is there in time."""
    link.pace = 0.02
    yield
    link.mend()


async def check(site: Site, file_id: int) -> Answer:
    """What `check` tells of that file."""
    return await site.ask("POST", f"{BASE}/check", {"file_id": file_id})


async def require_unwell(site: Site) -> None:
    """What needs the storage says that it is away, in time."""
    async with asyncio.timeout(SOON):
        health, checked = await asyncio.gather(site.get("/health"), check(site, 70000))
    assert (health.status, health.told["checks"]["storage"]) == (503, "error")
    require_problem(checked, 503, "storage_unavailable")


async def require_rest(site: Site, ended: str) -> None:
    """What does not need it goes on as ever: *ended* is a job whose files are there."""
    async with asyncio.timeout(SOON):
        status, result, stream, jobs, started = await asyncio.gather(
            site.get(f"{BASE}/status/{ended}"),
            site.get(f"{BASE}/{ended}"),
            site.ask("HEAD", f"{BASE}/subscribe/{ended}"),
            site.get(f"{BASE}/jobs"),
            site.ask("POST", f"{BASE}/start", {"file_id": 70028}),
        )
    assert [one.status for one in (status, result, stream, jobs)] == [200] * 4
    assert (started.status, started.told["code"]) == (504, "timeout")
    assert (await site.cancel(started.told["jobId"])).status == 200
    await require_work(site)


async def require_well(site: Site) -> None:
    """`/health` says so, in the end."""

    async def well() -> bool:
        return bool((await site.get("/health")).status == 200)

    await eventually(well)


async def require_whole(site: Site, job_id: str, *file_ids: int) -> None:
    """The job has completed, once, and its links lead to its files."""
    told = await site.ended(job_id)
    assert (told["status"], told["error"]) == ("completed", None)
    assert [event.kind for event in await site.history(job_id)].count("completed") == 1
    for file in (await site.get(f"{BASE}/{job_id}")).told["files"]:
        assert (await fetch(file["downloadUrl"])).body == archive(file["fileId"])
    assert sorted(file["fileId"] for file in told["files"]) == sorted(file_ids)


@pytest.mark.parametrize(("harm", "linked"), [(down, False), (held, True), (crawling, True)])
@pytest.mark.fault(90)
async def test_while_s3_is_away_callers_are_told_so_and_jobs_go_on_after_it(
    start: Start, files: Files, own: Seaweed, link: Link, harm: Any, linked: bool
) -> None:
    where = S3Server(link.port) if linked else own.server
    bucket = f"bucket-{harm.__name__}"
    site = await start(
        **settings_for(where, S3_BUCKET_NAME=bucket),
        DOWNLOAD_SOURCE_URL=files.url,
        REQUEST_TIMEOUT_MS="1000",
    )
    before = await site.completed(70014)
    files.hold()
    running = await site.job(70000, 70007)
    await files.asked.wait()
    async with harm(own, link):
        files.open.set()
        accepted = await site.job(70021)
        for job_id in (running, accepted):
            await site.when(job_id, was_put_back)
        await require_unwell(site)
        await require_rest(site, before)
        assert (await site.status(running))["status"] == "running"
    await require_whole(site, running, 70000, 70007)
    await require_whole(site, accepted, 70021)
    await require_whole(site, before, 70014)
    await require_well(site)
    assert (await check(site, 70000)).told["available"] is True


@pytest.mark.fault(90)
async def test_an_upload_that_loses_s3_between_two_parts_is_made_anew(
    start: Start, own: Seaweed, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated, "LINES", 100_000)  # 64 bytes each, so that there are two parts
    site = await start(**settings_for(S3Server(link.port), S3_BUCKET_NAME="bucket-cut"))
    await require_well(site)
    link.cut_after(s3_objects.PART + 500_000)
    job_id = await site.job(70000)
    await link.was_cut()
    await site.when(job_id, was_put_back)
    await require_unwell(site)
    link.mend()
    await require_whole(site, job_id, 70000)


@pytest.mark.fault(90)
async def test_an_s3_server_that_comes_back_empty_is_well_again_without_a_job(
    start: Start, own: Seaweed
) -> None:
    site = await start(**settings_for(own.server, S3_BUCKET_NAME="bucket-lost"))
    await require_well(site)
    own.kill()
    own.wipe()
    await asyncio.to_thread(own.start)
    await require_well(site)
    await site.completed(70000)
