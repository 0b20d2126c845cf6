"""One look at one job: fetch each of its files that is not there yet, side by side, and write down each step.

A look can end anywhere, by a crash too, and the next one goes on from what is written down. It knows neither
the queue nor how files are fetched; that only one look at a time may write is the records' doing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeAlias

from server.downloads.engine import Again
from server.downloads.jobs import DONE, ENDED, File, FileState, Job, JobState
from server.downloads.metrics import Metrics
from server.downloads.objects import ObjectStore, StoreError, object_key
from server.downloads.records import Claim, Records, Superseded
from server.job_store.opening import JobStoreError
from server.trace_context import Note, Spans, Task, no_span

log = logging.getLogger("hedgerow.downloads")

MOST_DEATHS = 10
"""Workers that may die at a job before it is taken to be the cause."""
SUSPECT = 3
"""
Deaths from which on a process works on one such job at a time. All that run beside the one that kills its
worker are charged with the death; those that are innocent must not come to `MOST_DEATHS` with it.
"""
MOST_LOOKS = 200
"""Looks that find the object store away before the job fails: an hour and a half, with the pauses between."""
LONGEST_PAUSE = 30.0
PROGRESS = 0.5
"""Seconds between two reports on a file, at least: nobody can see more, and each is written to the disk."""
RENEWAL = 10.0
"""Seconds between two signs of life, at most."""
MOST_MISSED = 3
"""Signs of life that may fail in a row before the job is left to whoever reaches the job store."""

Progress: TypeAlias = Callable[[int, int], Awaitable[None]]
"""Told how many bytes there are, of how many."""
Fetch: TypeAlias = Callable[[int, Progress], Awaitable[int]]
"""
Fetches a file, by id, and stores it; returns its size in bytes. Raises `Failed`, or `StoreError` when it is
the object store that failed.
"""


class Failed(Exception):
    """The file cannot be had. *detail* is one sentence for people."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


def pause(look: int, rng: random.Random) -> float:
    """Seconds until the next look at a job after the one of number *look*, from 0: growing, and scattered."""
    return min(2.0 ** min(look, 16), LONGEST_PAUSE) * rng.uniform(0.5, 1.0)


class Life:
    """The signs of life of one run: each change of a file is one, and without changes it gives others."""

    def __init__(self, records: Records, job_id: str, run: int) -> None:
        self._records = records
        self._job_id = job_id
        self._run = run
        self._seen = self._now()

    async def update(self, file: File) -> None:
        """Write down what *file* has come to."""
        await self._records.update(self._job_id, self._run, file)
        self._seen = self._now()

    async def keep_up(self) -> None:
        """Give a sign whenever there was none for `RENEWAL`. Raises JobStoreError if that fails too often."""
        failures = 0
        while True:
            if (left := self._seen + RENEWAL - self._now()) > 0:
                await asyncio.sleep(left)
                continue
            try:
                await self._records.renew(self._job_id, self._run)
                failures = 0
            except JobStoreError:
                failures += 1
                if failures == MOST_MISSED:
                    raise
            self._seen = self._now()

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class Worker:
    """
    Args:
        records: where it is written down.
        objects: asked whether a file is there already.
        fetch: fetches one file.
        ended: told of each job that has come to its end, perhaps more than once.
        owner: names this process.
        side_by_side: files of one job at a time.
        reuse: an object that is younger than so many seconds will do; so will any that was stored since the
            job began.
        clock: seconds since 1970.
        rng: luck.
        metrics: what an operator sees of it.
        step: told the name of each step before it is taken; a test may end the process there.
        span: gives each run of a job and each file of it a span.
    """

    def __init__(
        self,
        records: Records,
        objects: ObjectStore,
        fetch: Fetch,
        ended: Callable[[Job], Awaitable[None]],
        owner: str,
        side_by_side: int,
        reuse: float,
        clock: Callable[[], float],
        rng: random.Random,
        metrics: Metrics,
        step: Callable[[str], None] = lambda name: None,
        span: Spans = no_span,
    ) -> None:
        self._records = records
        self._objects = objects
        self._fetch = fetch
        self._ended = ended
        self._owner = owner
        self._side_by_side = side_by_side
        self._reuse = reuse
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._step = step
        self._span = span
        self._trying_suspect = False
        self._left: dict[str, int] = {}
        """Runs that ended while the job store was away, by their jobs: it takes us for dead."""

    async def look_at(self, job_id: str, look: int) -> Again | None:
        """A `server.downloads.engine.Work`."""
        self._metrics.taken_up()
        try:
            await self._release_left()
            self._step("claim")
            claim = await self._records.claim(job_id, self._owner)
            if claim is not None and not await self._run_in_turn(claim, look):
                return Again(pause(look, self._rng))
            if (job := await self._records.view(job_id)) is not None and job.state in ENDED:
                self._step("tell")
                await self._ended(job)
        except Superseded:
            return None  # cancelled, or taken up by another worker, who took us for dead
        except (JobStoreError, StoreError) as error:
            log.warning("job %s: %s", job_id, error.detail)
            self._metrics.put_off("storage" if isinstance(error, StoreError) else "job_store")
            return Again(pause(look, self._rng))
        finally:
            self._metrics.left()
        return None

    async def _run_in_turn(self, claim: Claim, look: int) -> bool:
        """Run the job, unless it is suspect and another such one is under way: whether it was run."""
        if claim.deaths < SUSPECT:
            await self._run_or_release(claim, look)
            return True
        if self._trying_suspect:
            await self._records.release(claim.job.id, claim.run)
            return False
        self._trying_suspect = True
        try:
            await self._run_or_release(claim, look)
        finally:
            self._trying_suspect = False
        return True

    async def _release_left(self) -> None:
        while self._left:
            job_id, run = self._left.popitem()
            try:
                await self._records.release(job_id, run)
            except JobStoreError:
                self._left[job_id] = run
                raise

    async def _run_or_release(self, claim: Claim, look: int) -> None:
        job_id, run = claim.job.id, claim.run
        facts = {"run": run, "files": claim.job.total}
        try:
            with self._spanning(Task.JOB, claim.job.traceparent, **facts) as note:
                state = await self._run(claim, look)
                note(state.value, failed=state is JobState.FAILED)
        except Superseded:
            raise
        except BaseException:
            # Told to hand over, a store that is away, or a bug: none of them is a death.
            try:
                await self._records.release(job_id, run)
            except JobStoreError:
                self._left[job_id] = run
            raise

    async def _run(self, claim: Claim, look: int) -> JobState:
        job, run = claim.job, claim.run
        if claim.deaths >= MOST_DEATHS:
            error = f"{claim.deaths} workers have died at this job."
            return await self._finish(job.id, run, JobState.FAILED, error)
        try:
            files = await self._files(job, run)
        except StoreError as error:
            if look < MOST_LOOKS:
                raise
            return await self._finish(job.id, run, JobState.FAILED, error.detail)
        self._step("finish")
        return await self._finish(job.id, run, *outcome(files))

    async def _finish(self, job_id: str, run: int, state: JobState, error: str | None) -> JobState:
        job = await self._records.finish(job_id, run, state, error)
        self._metrics.ended(state, (job.ended or job.created) - job.created)
        return state

    @contextmanager
    def _spanning(self, task: Task, parent: str = "", **facts: int) -> Iterator[Note]:
        """A span, for which it is no failure that another run has taken over."""
        with self._span(task, parent, **facts) as note:
            try:
                yield note
            except Superseded:
                note("superseded")
                raise

    async def _files(self, job: Job, run: int) -> list[File]:
        """All files of the job, ended; at a first failure that is not the file's own, that is raised."""
        gate = asyncio.Semaphore(self._side_by_side)
        life = Life(self._records, job.id, run)

        async def one(file: File) -> File:
            async with gate:
                with self._spanning(Task.FILE, attempt=file.attempts) as note:
                    ended = await self._file(job, life, file)
                    note(ended.state.value, failed=ended.state is FileState.FAILED)
                return ended

        try:
            async with asyncio.TaskGroup() as group:
                alive = group.create_task(life.keep_up(), name=f"job {job.id}: alive")
                tasks = [
                    group.create_task(one(file), name=f"job {job.id}: {file.id}")
                    for file in job.files
                    if file.state not in DONE
                ]
                if tasks:
                    await asyncio.wait(tasks)
                alive.cancel()
        except BaseExceptionGroup as group:
            raise _gravest(group) from None
        return [file for file in job.files if file.state in DONE] + [task.result() for task in tasks]

    async def _file(self, job: Job, life: Life, file: File) -> File:
        self._step("file")
        file = replace(file, state=FileState.RUNNING, percent=0, attempts=file.attempts + 1)
        await life.update(file)

        told = -PROGRESS

        async def progress(done: int, total: int) -> None:
            nonlocal file, told
            percent = min(done * 100 // max(total, 1), 99)  # the hundredth is for its being stored
            now = self._clock()
            if (percent > file.percent or total != file.size) and abs(now - told) >= PROGRESS:
                told = now
                file = replace(file, percent=percent, size=total)
                self._step("progress")
                with suppress(JobStoreError):  # worth no more than the next one
                    await life.update(file)

        try:
            size = await self._there(job, file.id)
            if size is None:
                size = await self._fetch(file.id, progress)
            file = replace(file, state=FileState.COMPLETED, percent=100, size=size)
        except Failed as error:
            file = replace(file, state=FileState.FAILED, error=error.detail)
        self._step("stored")
        await life.update(file)
        self._metrics.file(file.state)
        return file

    async def _there(self, job: Job, file_id: int) -> int | None:
        """The size of the file's object, if it will do: a look before this one may have stored it."""
        found = await self._objects.head(object_key(file_id))
        began = self._clock() if job.started is None else job.started
        if found is None or found.modified < min(began, self._clock() - self._reuse):
            return None
        return found.size


def outcome(files: Sequence[File]) -> tuple[JobState, str | None]:
    """What a job came to whose *files* have ended: one file that is there is worth having."""
    failed = [file for file in files if file.state is not FileState.COMPLETED]
    if len(failed) < len(files):
        return JobState.COMPLETED, None
    return JobState.FAILED, failed[0].error if len(
        files
    ) == 1 else f"None of the {len(files)} files can be had."


def _gravest(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one that decides what becomes of the job: others may follow from it."""
    errors = list(_flat(group))
    for kind in (Superseded, JobStoreError, StoreError):
        for error in errors:
            if isinstance(error, kind):
                return error
    return errors[0]


def _flat(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flat(error)
        else:
            yield error
