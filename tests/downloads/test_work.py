"""A look at a job, over records and objects that the test plays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from server.downloads.engine import Again
from server.downloads.jobs import File, FileState, Job, JobState
from server.downloads.metrics import Metrics
from server.downloads.objects import ObjectInfo, StoreUnavailable
from server.downloads.records import Claim
from server.downloads.work import (
    LONGEST_PAUSE,
    MOST_DEATHS,
    SUSPECT,
    Failed,
    Progress,
    Worker,
    outcome,
    pause,
)
from strategies.virtual_time import run_virtual

NOW = 1_700_000_000.0
FILE = 70_000


class Book:
    """Records that remember what was written, and objects of a given age."""

    def __init__(self, deaths: int = 0, stored: float | None = None) -> None:
        self.deaths = deaths
        self.stored = stored
        self.job = Job("a-job", "me", JobState.RUNNING, (File(FILE),), NOW, NOW, run=1)
        self.written: list[File] = []
        self.renewed = 0
        self.released = 0

    async def claim(self, job_id: str, owner: str) -> Claim:
        return Claim(replace(self.job, id=job_id), 1, self.deaths)

    async def view(self, job_id: str) -> Job:
        return self.job

    async def update(self, job_id: str, run: int, file: File) -> str:
        self.written.append(file)
        return "1-1"

    async def renew(self, job_id: str, run: int) -> None:
        self.renewed += 1

    async def release(self, job_id: str, run: int) -> None:
        self.released += 1

    async def finish(self, job_id: str, run: int, state: JobState, error: str | None) -> Job:
        self.job = replace(self.job, state=state, error=error, ended=NOW)
        return self.job

    async def head(self, key: str) -> ObjectInfo | None:
        return None if self.stored is None else ObjectInfo(7, "e", self.stored)


async def fetched(file_id: int, progress: Progress) -> int:
    return 9


async def nothing(job: Job) -> None:
    """Nobody wants to be told."""


def worker(
    book: Book,
    fetch: Callable[[int, Progress], Awaitable[int]] = fetched,
    reuse: float = 0.0,
    clock: Callable[[], float] = lambda: NOW + 10,
) -> Worker:
    records = cast(Any, book)
    metrics = Metrics(CollectorRegistry())
    return Worker(records, records, fetch, nothing, "us", 2, reuse, clock, random.Random(1), metrics)


async def test_a_file_is_fetched_and_the_job_ends() -> None:
    book = Book()
    assert await worker(book).look_at("a-job", 0) is None
    assert [file.state for file in book.written] == [FileState.RUNNING, FileState.COMPLETED]
    assert (book.job.state, book.written[-1].size) == (JobState.COMPLETED, 9)


@pytest.mark.parametrize(
    ("stored", "reuse", "size"),
    [(NOW + 1, 0.0, 7), (NOW - 1, 0.0, 9), (NOW - 1, 60.0, 7), (NOW - 60, 60.0, 9)],
)
async def test_an_object_that_is_young_enough_is_not_fetched_again(
    stored: float, reuse: float, size: int
) -> None:
    book = Book(stored=stored)
    await worker(book, reuse=reuse).look_at("a-job", 0)
    assert book.written[-1].size == size


async def test_a_file_that_cannot_be_had_is_told_and_fails_a_job_of_one() -> None:
    async def missing(file_id: int, progress: Progress) -> int:
        raise Failed("There is no such file.")

    book = Book()
    assert await worker(book, missing).look_at("a-job", 0) is None
    assert (book.job.state, book.job.error) == (JobState.FAILED, "There is no such file.")


async def test_an_object_store_that_is_away_puts_the_job_off_and_is_nobody_s_death() -> None:
    async def away(file_id: int, progress: Progress) -> int:
        raise StoreUnavailable("away")

    book = Book()
    assert isinstance(await worker(book, away).look_at("a-job", 0), Again)
    assert (book.released, book.job.state) == (1, JobState.RUNNING)


async def test_of_jobs_at_which_workers_died_a_process_tries_one_at_a_time() -> None:
    """Or each that runs beside the one that kills would be charged with its deaths, and fail with it."""
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(file_id: int, progress: Progress) -> int:
        begun.set()
        await go.wait()
        return 9

    book = Book(deaths=SUSPECT)
    ours = worker(book, slow)
    first = asyncio.create_task(ours.look_at("a-job", 0))
    await begun.wait()
    assert isinstance(await ours.look_at("another", 0), Again)
    assert book.released == 1
    go.set()
    assert await first is None
    assert await ours.look_at("another", 0) is None


async def test_a_job_at_which_too_many_workers_died_fails_and_says_so() -> None:
    book = Book(deaths=MOST_DEATHS)
    await worker(book).look_at("a-job", 0)
    assert (book.job.state, book.job.error) == (
        JobState.FAILED,
        f"{MOST_DEATHS} workers have died at this job.",
    )
    assert book.written == []


@pytest.mark.parametrize(("step", "reports", "renewals"), [(6.0, 10, 0), (60.0, 1, 5)])
def test_a_run_gives_a_sign_of_life_of_its_own_only_when_it_has_nothing_to_report(
    step: float, reports: int, renewals: int
) -> None:
    async def slow(file_id: int, progress: Progress) -> int:
        for number in range(reports):
            await asyncio.sleep(step)
            await progress(number + 1, reports + 1)
        return 9

    book = Book()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        await worker(book, slow, clock=lambda: NOW + loop.time()).look_at("a-job", 0)

    run_virtual(story())
    assert len(book.written) == reports + 2
    assert book.renewed == renewals


def test_one_file_that_is_there_is_worth_having() -> None:
    there, lost = File(1, FileState.COMPLETED), File(2, FileState.FAILED, error="gone")
    assert outcome([there, lost]) == (JobState.COMPLETED, None)
    assert outcome([lost]) == (JobState.FAILED, "gone")
    assert outcome([lost, lost]) == (JobState.FAILED, "None of the 2 files can be had.")


def test_looks_come_ever_later_and_scattered() -> None:
    rng = random.Random(1)
    assert 0.5 <= pause(0, rng) <= 1.0
    assert LONGEST_PAUSE / 2 <= pause(500, rng) <= LONGEST_PAUSE
