"""Job records on a real store: what is accepted is kept, changes whole, and tells what happened to it."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeAlias

import orjson
import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from server.downloads import records as room
from server.downloads.jobs import Callback, File, FileState, Job, JobState, Summary
from server.downloads.records import Claim, KeyReused, Records, Superseded, TooManyJobs
from server.job_store.faults import JobStoreDown, JobStoreFull
from tests.downloads.places import Clock
from tests.downloads.recording import (
    ALL,
    KEEP,
    REMEMBER,
    claimed,
    completed,
    contents,
    ended,
    kinds,
    last_event,
    new_job,
    running,
)
from tests.job_store.stores import Valkey, valkey

CLIENT = "192.0.2.7"
URL = "https://example.com/told?token=hidden"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="session")
def record_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A real store, the same for all tests; each has keys of its own in it."""
    with valkey(tmp_path_factory.mktemp("records")) as store:
        yield store


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def redis(request: pytest.FixtureRequest, record_store: Valkey) -> AsyncIterator[Redis]:
    """A client, of either protocol."""
    async with Redis.from_url(record_store.url, protocol=request.param) as client:
        yield client


@pytest.fixture
def prefix() -> str:
    """What the keys of one test begin with."""
    return f"t{uuid.uuid4().hex}"


@pytest.fixture
def clock() -> Clock:
    """Stands still unless a test moves it."""
    return Clock(1_700_000_000.25)


@pytest.fixture
def records(redis: Redis, clock: Clock, prefix: str) -> Records:
    """What is tested."""
    return Records(redis, clock, keep=KEEP, remember=REMEMBER, most_open=5, prefix=prefix)


async def view(records: Records, job: str) -> Job:
    """A job that is known."""
    found = await records.view(job)
    assert found is not None
    return found


async def claim(records: Records, job: str) -> Claim:
    """A run of a job that can be claimed."""
    found = await records.claim(job, "another worker")
    assert found is not None
    return found


# Accepting


async def test_a_new_job_is_queued_with_its_files_in_the_order_of_the_caller(
    records: Records, clock: Clock
) -> None:
    new = new_job((10_007, 10_000, 99_999_999), callback=URL)
    created = await records.create(new)
    assert created.fresh
    assert created.job == Job(
        id=new.id,
        client=CLIENT,
        state=JobState.QUEUED,
        files=(File(10_007), File(10_000), File(99_999_999)),
        created=clock.now,
        last_event=created.job.last_event,
        callback=Callback(URL),
        request_id="a-request",
    )
    assert await records.view(new.id) == created.job


async def test_a_hundred_at_once_with_one_key_make_one_job(records: Records) -> None:
    made = await asyncio.gather(
        *(records.create(new_job((10_000, 10_007), idempotency_key="k")) for _ in range(100))
    )
    assert len({one.job.id for one in made}) == 1
    assert sum(one.fresh for one in made) == 1
    assert await kinds(records, made[0].job.id) == ["queued"]
    assert len((await records.all_jobs(ALL, 200, None)).jobs) == 1


async def test_a_key_is_not_taken_for_another_body(records: Records, redis: Redis, prefix: str) -> None:
    await records.create(new_job(idempotency_key="k"))
    before = await contents(redis, prefix)
    with pytest.raises(KeyReused):
        await records.create(new_job(idempotency_key="k", fingerprint="another"))
    assert await contents(redis, prefix) == before


async def test_a_key_belongs_to_its_client(records: Records) -> None:
    first = await records.create(new_job(idempotency_key="k"))
    second = await records.create(new_job(idempotency_key="k", client="2001:db8::/64", fingerprint="another"))
    assert second.fresh
    assert first.job.id != second.job.id


async def test_the_key_of_a_forgotten_job_makes_a_new_one(
    records: Records, redis: Redis, prefix: str
) -> None:
    first = await records.create(new_job(idempotency_key="k"))
    await redis.delete(f"{prefix}:record:{first.job.id}")
    second = await records.create(new_job(idempotency_key="k", fingerprint="another"))
    assert second.fresh


@pytest.mark.parametrize("key", [None, "k", "schlüssel\n\0 {*}"])
async def test_a_creation_that_is_sent_twice_makes_one_fresh_job(records: Records, key: str | None) -> None:
    new = new_job(idempotency_key=key)
    first, second = await records.create(new), await records.create(new)
    assert first == second
    assert second.fresh
    assert await kinds(records, new.id) == ["queued"]


async def test_a_client_has_so_many_jobs_that_have_not_ended(records: Records) -> None:
    made = await asyncio.gather(*(records.create(new_job()) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(one, TooManyJobs) for one in made) == 15
    assert (await records.create(new_job(client="192.0.2.8"))).fresh
    [cancelled, *_] = (await records.jobs_of(CLIENT, ALL, 1, None)).jobs
    await records.cancel(cancelled.id)
    assert (await records.create(new_job())).fresh
    with pytest.raises(TooManyJobs):
        await records.create(new_job())


async def test_at_the_cap_a_known_key_still_finds_its_job(records: Records) -> None:
    first = await records.create(new_job(idempotency_key="k"))
    for _ in range(4):
        await records.create(new_job())
    assert await records.create(new_job(idempotency_key="k")) == room.Created(first.job, fresh=False)


async def test_jobs_that_are_forgotten_do_not_count_against_the_cap(
    records: Records, redis: Redis, prefix: str
) -> None:
    for _ in range(5):
        created = await records.create(new_job())
    await redis.delete(f"{prefix}:record:{created.job.id}")
    assert (await records.create(new_job())).fresh


@pytest.mark.parametrize("files", [(), (10_000, 10_000)])
async def test_a_job_has_files_each_of_them_once(records: Records, files: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="files"):
        await records.create(new_job(files))


# Taking up


async def test_the_first_run_is_announced_and_a_later_one_is_not(records: Records, clock: Clock) -> None:
    job, run = await claimed(records)
    clock.now += 5
    second = await claim(records, job)
    assert (run, second.run, second.job.run) == (1, 2, 2)
    assert second.job.state is JobState.RUNNING
    assert second.job.started == clock.now - 5
    assert await kinds(records, job) == ["queued", "running"]


async def test_a_run_that_neither_ended_nor_released_its_job_died(records: Records) -> None:
    job, _ = await claimed(records)
    assert [(await claim(records, job)).deaths for _ in range(3)] == [1, 2, 3]


async def test_a_run_that_released_its_job_did_not_die(records: Records) -> None:
    job, run = await claimed(records)
    await records.release(job, run)
    assert (await view(records, job)).state is JobState.RUNNING
    second = await claim(records, job)
    assert second.deaths == 0
    assert (await claim(records, job)).deaths == 1


async def test_a_new_run_finds_files_left_in_the_middle_queued_and_ended_ones_as_they_are(
    records: Records,
) -> None:
    job, run = await claimed(records, 10_000, 10_007, 10_014)
    await records.update(job, run, completed(10_000))
    await records.update(job, run, running(10_007, 40))
    second = await claim(records, job)
    assert second.job.files == (completed(10_000), File(10_007, attempts=1), File(10_014))
    assert second.job.percent == 33


async def test_nobody_takes_up_what_is_unknown_or_has_ended(records: Records) -> None:
    assert await records.claim(UNKNOWN, "a worker") is None
    assert await records.claim(await ended(records), "a worker") is None


async def test_what_a_former_run_left_in_the_middle_no_longer_counts(records: Records) -> None:
    job, run = await claimed(records, 10_000, 10_007)
    await records.update(job, run, running(10_000, 80))
    run = (await claim(records, job)).run
    assert [one.percent for one in (await records.all_jobs(ALL, 1, None)).jobs] == [0]
    await records.update(job, run, running(10_000, 20))
    assert orjson.loads((await records.events(job)).events[-1].data)["progress"] == 10


# Going on


async def test_a_job_tells_each_step_of_its_files(records: Records) -> None:
    job, run = await claimed(records, 10_000, 10_007)
    await records.update(job, run, running(10_000, 40))
    failed = File(10_000, FileState.FAILED, 40, 1000, 1, 'It broke: "\n/ü"')
    last = await records.update(job, run, failed)
    found = await view(records, job)
    assert found.files == (failed, File(10_007))
    assert found.last_event == last
    *_, progress, file = (await records.events(job)).events
    assert (progress.kind, file.kind, file.id) == ("progress", "file", last)
    assert orjson.loads(progress.data) == {
        "jobId": job,
        "status": "running",
        "totalFileIds": 2,
        "progress": 20,
        "completedFiles": 0,
        "failedFiles": 0,
        "at": "2023-11-14T22:13:20.250Z",
        "file": {"fileId": 10_000, "status": "running", "progress": 40, "size": 1000, "error": None},
    }
    told = orjson.loads(file.data)
    assert (told["progress"], told["failedFiles"]) == (50, 1)
    assert told["file"]["error"] == 'It broke: "\n/ü"'


async def test_within_a_run_a_percentage_does_not_go_back(records: Records) -> None:
    job, run = await claimed(records)
    await records.update(job, run, running(10_000, 40))
    await records.update(job, run, running(10_000, 10, attempts=2))
    assert (await view(records, job)).files == (running(10_000, 40, attempts=2),)


async def test_a_file_that_has_ended_stays_as_it_is(records: Records, redis: Redis, prefix: str) -> None:
    job, run = await claimed(records)
    last = await records.update(job, run, completed(10_000))
    run = (await claim(records, job)).run
    before = await contents(redis, prefix)
    assert await records.update(job, run, running(10_000, 5)) == last
    assert await records.update(job, run, File(10_000, FileState.FAILED, error="It broke.")) == last
    assert await contents(redis, prefix) == before


async def test_a_step_that_is_written_twice_is_told_once(records: Records) -> None:
    job, run = await claimed(records)
    first = await records.update(job, run, running(10_000, 40))
    assert await records.update(job, run, running(10_000, 40)) == first
    assert await kinds(records, job) == ["queued", "running", "progress"]


@pytest.mark.parametrize("file", [File(10_000), running(1), running(1000), running(10_000, 101)])
async def test_a_step_that_is_none_is_refused(
    records: Records, redis: Redis, prefix: str, file: File
) -> None:
    job, run = await claimed(records, 10_000, 10_007)
    before = await contents(redis, prefix)
    with pytest.raises(ValueError, match=r"no such file|nothing to write down"):
        await records.update(job, run, file)
    assert await contents(redis, prefix) == before


Change: TypeAlias = Callable[[Records, str, int], Awaitable[Any]]
CHANGES: dict[str, Change] = {
    "update": lambda records, job, run: records.update(job, run, completed(10_000)),
    "renew": lambda records, job, run: records.renew(job, run),
    "finish": lambda records, job, run: records.finish(job, run, JobState.FAILED, "It broke."),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("how", ["taken up", "ended", "revived", "unknown"])
@pytest.mark.fault(93)
async def test_a_run_that_is_superseded_changes_nothing(
    records: Records, redis: Redis, prefix: str, change: Change, how: str
) -> None:
    job, run = await claimed(records)
    if how == "taken up":
        await claim(records, job)
    if how in ("ended", "revived"):
        await records.cancel(job)
    if how == "revived":
        await records.revive(job)
    if how == "unknown":
        job = UNKNOWN
    before = await contents(redis, prefix)
    with pytest.raises(Superseded):
        await change(records, job, run)
    await records.release(job, run)
    assert await contents(redis, prefix) == before


# Ending


async def test_a_completed_job_expires_and_a_failed_one_does_not(records: Records, clock: Clock) -> None:
    good, bad = await ended(records), (await claimed(records))[0]
    await records.finish(bad, 1, JobState.FAILED, "It broke.")
    clock.now += KEEP - 1
    assert (await view(records, good)).state is JobState.COMPLETED
    clock.now += 1
    found = await view(records, good)
    assert (found.state, found.expires) == (JobState.EXPIRED, clock.now)
    assert (await view(records, bad)).state is JobState.FAILED


async def test_the_files_of_a_failed_job_have_failed_with_it(records: Records) -> None:
    job, run = await claimed(records, 10_000, 10_007, 10_014)
    await records.update(job, run, completed(10_000))
    await records.update(job, run, running(10_007, 30))
    found = await records.finish(job, run, JobState.FAILED, "Too many workers died.")
    assert [file.state for file in found.files] == [FileState.COMPLETED, FileState.FAILED, FileState.FAILED]
    assert [file.error for file in found.files[1:]] == ["Too many workers died."] * 2
    told = orjson.loads((await records.events(job)).events[-1].data)
    assert (told["status"], told["failedFiles"], told["error"]) == ("failed", 2, "Too many workers died.")


async def test_no_job_is_completed_before_its_files_have_ended(
    records: Records, redis: Redis, prefix: str
) -> None:
    job, run = await claimed(records, 10_000, 10_007)
    await records.update(job, run, completed(10_000))
    before = await contents(redis, prefix)
    with pytest.raises(ValueError, match="not all files"):
        await records.finish(job, run, JobState.COMPLETED, None)
    with pytest.raises(ValueError, match="cancelled"):
        await records.finish(job, run, JobState.CANCELLED, None)
    assert await contents(redis, prefix) == before


async def test_a_queued_job_can_be_cancelled_and_a_running_one_with_its_files(records: Records) -> None:
    queued = (await records.create(new_job())).job.id
    job, run = await claimed(records, 10_000, 10_007)
    await records.update(job, run, completed(10_000))
    await records.update(job, run, running(10_007, 30))
    for one in (queued, job):
        found = await records.cancel(one)
        assert found is not None
        assert found.state is JobState.CANCELLED
        assert await records.cancel(one) == found
        assert (await kinds(records, one))[-1] == "cancelled"
    assert [file.state for file in (await view(records, job)).files] == [
        FileState.COMPLETED,
        FileState.CANCELLED,
    ]


async def test_cancelling_leaves_an_ended_job_as_it_is(records: Records) -> None:
    job = await ended(records)
    before = await view(records, job)
    assert await records.cancel(job) == before
    assert await records.cancel(UNKNOWN) is None


async def test_a_revived_job_does_again_what_was_not_done(records: Records, clock: Clock) -> None:
    job, _ = await claimed(records, 10_000, 10_007, 10_014, callback=URL)
    await claim(records, job)
    await records.update(job, 2, completed(10_000))
    await records.update(job, 2, File(10_007, FileState.FAILED, 30, 1000, 3, "It broke."))
    await records.finish(job, 2, JobState.FAILED, "It broke.")
    assert await records.settle(job, await last_event(records, job), "given_up", 1)
    found = await records.revive(job)
    assert found is not None
    assert found.files == (completed(10_000), File(10_007, attempts=3), File(10_014))
    assert (found.state, found.error, found.ended, found.started) == (JobState.QUEUED, None, None, None)
    assert found.callback == Callback(URL)
    again = await claim(records, job)
    assert (again.run, again.deaths, again.job.percent) == (3, 0, 33)
    assert (await kinds(records, job))[-3:] == ["failed", "queued", "running"]


async def test_a_revived_job_counts_as_one_that_has_not_ended(records: Records) -> None:
    for _ in range(5):
        job = (await records.create(new_job())).job.id
    await records.cancel(job)
    await records.revive(job)
    with pytest.raises(TooManyJobs):
        await records.create(new_job())


async def test_only_failed_and_cancelled_jobs_are_revived(records: Records) -> None:
    job, _ = await claimed(records)
    before = await view(records, job)
    assert await records.revive(job) == before
    done = await ended(records)
    assert await records.revive(done) == await records.view(done)
    assert await records.revive(UNKNOWN) is None


# Telling


async def test_events_go_on_after_the_one_that_is_named(records: Records) -> None:
    job, run = await claimed(records)
    for percent in range(10, 100, 10):
        await records.update(job, run, running(10_000, percent))
    all_of_them = (await records.events(job)).events
    assert [event.kind for event in all_of_them] == ["queued", "running", *["progress"] * 9]
    for i, event in enumerate(all_of_them):
        page = await records.events(job, event.id)
        assert page == room.EventPage(all_of_them[i + 1 :], complete=True)
    assert (await records.events(job, all_of_them[3].id, 2)).events == all_of_them[4:6]


@pytest.mark.parametrize("after", ["1-0", "99999999999999-0", "18446744073709551615-18446744073709551615"])
async def test_events_after_one_that_never_was_are_not_complete(records: Records, after: str) -> None:
    job, _ = await claimed(records)
    assert not (await records.events(job, after)).complete
    assert await records.events(UNKNOWN, after) == room.EventPage((), complete=False)
    assert await records.events(UNKNOWN) == room.EventPage((), complete=False)


async def test_what_is_published_is_what_is_kept(records: Records, redis: Redis, prefix: str) -> None:
    new = new_job()
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe(f"{prefix}:events:{new.id}")
        await pubsub.get_message(timeout=20)
        await records.create(new)
        await claim(records, new.id)
        await records.update(new.id, 1, running(10_000, 10))
        await records.cancel(new.id)
        heard = [await pubsub.get_message(timeout=20) for _ in range(4)]
    kept = (await records.events(new.id)).events
    assert [message["data"] for message in heard if message] == [
        b"\n".join((event.id.encode(), event.kind.encode(), event.data)) for event in kept
    ]


async def test_ordinary_progress_drives_no_event_out(records: Records) -> None:
    files = range(10_000, 10_100)
    job, run = await claimed(records, *files)
    for file in files:
        for percent in range(0, 100, 9):
            await records.update(job, run, running(file, percent))
        await records.update(job, run, completed(file))
    await records.finish(job, run, JobState.COMPLETED, None)
    page = await records.events(job, count=1000)
    assert page.complete
    rest = await records.events(job, page.events[-1].id, 1000)
    told = [event.kind for event in page.events + rest.events]
    assert (len(told), told.count("file"), told[-1]) == (1303, 100, "completed")


async def test_a_job_that_is_begun_over_and_over_forgets_its_oldest_events(
    records: Records, redis: Redis, prefix: str
) -> None:
    job, run = await claimed(records)
    _, second, *_ = (await records.events(job)).events
    for _ in range(60):
        for percent in range(0, 100, 10):
            await records.update(job, run, running(10_000, percent))
        run = (await claim(records, job)).run
    await records.cancel(job)
    assert await redis.xlen(f"{prefix}:record:{job}:events") < 400
    page = await records.events(job)
    assert not page.complete
    assert page.events[-1].kind == "cancelled"
    assert not (await records.events(job, second.id)).complete
    assert (await records.events(job, page.events[0].id)).complete


@pytest.mark.fault(100)
async def test_a_clock_that_jumps_changes_times_and_nothing_else(redis: Redis, prefix: str) -> None:
    jumps = itertools.accumulate(itertools.cycle((3600.0, -7200.0, 3600.5)), initial=1_700_000_000.0)
    records = Records(redis, lambda: next(jumps), prefix=prefix)
    job, run = await claimed(records, 10_000, 10_007)
    await records.update(job, run, running(10_000, 40))
    await records.renew(job, run)
    await records.release(job, run)
    second = await claim(records, job)
    assert second.deaths == 0
    with pytest.raises(Superseded):
        await records.update(job, run, running(10_000, 50))
    for file in (10_000, 10_007):
        await records.update(job, second.run, completed(file))
    found = await records.finish(job, second.run, JobState.COMPLETED, None)
    assert (found.state, found.percent) == (JobState.COMPLETED, 100)
    events = (await records.events(job)).events
    assert [event.kind for event in events] == ["queued", "running", "progress", "file", "file", "completed"]
    ids = [tuple(map(int, event.id.split("-"))) for event in events]
    assert ids == sorted(set(ids))


# The callback


async def test_a_callback_is_owed_from_the_end_until_it_is_settled(records: Records, clock: Clock) -> None:
    job = await ended(records, callback=URL)
    later = clock.now + 1
    assert await records.stale(later, 10) == (job,)
    end = await last_event(records, job)
    assert await records.attempted(job, end, 1, "The receiver answered 500.")
    found = (await view(records, job)).callback
    assert found == Callback(URL, "pending", 1, "The receiver answered 500.")
    assert await records.settle(job, end, "delivered", 2)
    assert await records.stale(later, 10) == ()
    assert not await records.attempted(job, end, 3, "Too late.")
    found = (await view(records, job)).callback
    assert found == Callback(URL, "delivered", 2, "The receiver answered 500.")
    assert found.settled


async def test_before_its_end_there_is_nothing_to_settle(records: Records, redis: Redis, prefix: str) -> None:
    job, _ = await claimed(records, callback=URL)
    before, latest = await contents(redis, prefix), await last_event(records, job)
    assert not await records.settle(job, latest, "delivered", 1)
    assert not await records.attempted(job, latest, 1, "The receiver answered 500.")
    assert not await records.settle(UNKNOWN, latest, "delivered", 1)
    assert await contents(redis, prefix) == before


async def test_a_late_word_of_an_end_that_was_undone_settles_nothing_of_the_next_one(
    records: Records, redis: Redis, prefix: str
) -> None:
    job = (await records.create(new_job(callback=URL))).job.id
    await records.cancel(job)
    former = await last_event(records, job)
    await records.revive(job)
    await records.cancel(job)
    before = await contents(redis, prefix)
    assert not await records.settle(job, former, "delivered", 1)
    assert not await records.attempted(job, former, 1, "The receiver answered 500.")
    assert await contents(redis, prefix) == before
    assert await records.settle(job, await last_event(records, job), "delivered", 1)


async def test_a_late_word_of_attempts_before_a_replay_does_not_end_it(
    records: Records, redis: Redis, prefix: str
) -> None:
    job = await ended(records, callback=URL)
    end = await last_event(records, job)
    assert await records.attempted(job, end, 1, "The receiver answered 500.")
    await records.owe(job)
    before = await contents(redis, prefix)
    assert not await records.settle(job, end, "given_up", 2)
    assert not await records.attempted(job, end, 2, "The receiver answered 500.")
    assert await contents(redis, prefix) == before


async def test_to_tell_of_an_attempt_twice_does_no_harm(records: Records) -> None:
    job = await ended(records, callback=URL)
    end = await last_event(records, job)
    for _ in range(2):
        assert await records.attempted(job, end, 1, "The receiver answered 500.")
    for _ in range(2):
        assert await records.settle(job, end, "delivered", 2)
    assert (await view(records, job)).callback == Callback(URL, "delivered", 2, "The receiver answered 500.")


@pytest.mark.fault(101)
async def test_the_address_of_a_callback_is_not_in_what_is_logged(records: Records) -> None:
    job = await records.view(await ended(records, callback=URL))
    assert job is not None
    assert "hidden" not in repr(job) + repr((await records.all_jobs(ALL, 1, None)).jobs)


# Remembering


async def lives(redis: Redis, prefix: str) -> dict[str, int]:
    """Seconds that each key of a store lives; those that name no job by the rest of their names."""
    keys = [key.decode() async for key in redis.scan_iter(f"{prefix}:*", count=1000)]
    return {key.removeprefix(prefix): await redis.ttl(key) for key in keys}


async def test_all_that_belongs_to_a_job_expires(redis: Redis, clock: Clock, prefix: str) -> None:
    records = Records(redis, clock, keep=1000.0, remember=500.0, prefix=prefix)
    job = await ended(records, callback=URL, idempotency_key="k")
    parts, events = {f":record:{job}{part}" for part in ("", ":files")}, f":record:{job}:events"
    found = await lives(redis, prefix)
    assert {key for key, seconds in found.items() if seconds == -1} == {":jobs", ":open"}
    assert all(604_790 <= found[key] <= 604_800 for key in parts), "until its callback is settled"
    assert 3590 <= found[events] <= 3600
    clock.now += 100
    end = await last_event(records, job)
    await records.settle(job, end, "delivered", 1)
    found = await lives(redis, prefix)
    assert all(1390 <= found[key] <= 1400 for key in (*parts, events))
    clock.now -= 3600
    await records.settle(job, end, "delivered", 1)
    found = await lives(redis, prefix)
    assert all(1490 <= found[key] <= 1500 for key in parts), "never longer than from now"
    clock.now += 10**6
    await records.settle(job, end, "delivered", 1)
    found = await lives(redis, prefix)
    assert all(found.get(key, 0) <= 1 for key in parts)


async def test_an_ended_job_that_owes_nothing_expires_from_its_end(
    redis: Redis, clock: Clock, prefix: str
) -> None:
    records = Records(redis, clock, keep=1000.0, remember=500.0, prefix=prefix)
    await ended(records)
    found = await lives(redis, prefix)
    assert sum(1490 <= seconds <= 1500 for seconds in found.values()) == 3
    assert ":open" not in found


async def test_signs_of_life_keep_all_of_a_job_alive(records: Records, redis: Redis, prefix: str) -> None:
    job, run = await claimed(records)
    await records.update(job, run, running(10_000, 10))
    keys = [f"{prefix}:record:{job}{part}" for part in ("", ":files", ":events")]
    for sign in (
        lambda: records.renew(job, run),
        lambda: records.update(job, run, running(10_000, 20)),
        lambda: records.stale(1e12, 10),
    ):
        for key in keys:
            await redis.expire(key, 100)
        await sign()
        assert min([await redis.ttl(key) for key in keys]) > 600_000


async def test_a_job_that_waits_for_its_turn_for_weeks_is_not_forgotten(
    records: Records, redis: Redis, prefix: str
) -> None:
    """Nobody works on it, but it is seen to be silent; it had been forgotten after eight days."""
    created = await records.create(new_job())
    key = f"{prefix}:record:{created.job.id}"
    await redis.expire(key, 100)
    assert await records.stale(1e12, 10) == (created.job.id,)
    assert await redis.ttl(key) > 600_000


async def test_silent_jobs_are_found_longest_silence_first(records: Records, clock: Clock) -> None:
    start = clock.now
    jobs = []
    for _ in range(3):
        jobs.append((await claimed(records))[0])
        clock.now += 1
    assert await records.stale(start + 2, 1) == (jobs[0],)
    assert await records.stale(start + 2, 10) == (jobs[1],), "the first has been told of"
    assert await records.stale(start + 2, 10) == ()
    clock.now += 1
    await records.renew(jobs[0], 1)
    clock.now += 1
    assert await records.stale(clock.now, 10) == (jobs[2], jobs[1], jobs[0])
    await records.cancel(jobs[1])
    assert set(await records.stale(clock.now + 1, 10)) == {jobs[0], jobs[2]}


@pytest.mark.fault(100)
async def test_a_job_is_found_silent_also_when_the_clock_was_put_back(records: Records, clock: Clock) -> None:
    job, _ = await claimed(records)
    clock.now -= 3600
    assert await records.stale(clock.now - 30, 10) == ()
    clock.now += 31
    assert await records.stale(clock.now - 30, 10) == (job,)


async def test_what_is_forgotten_is_not_found_silent(
    records: Records, redis: Redis, clock: Clock, prefix: str
) -> None:
    job, _ = await claimed(records)
    await redis.delete(f"{prefix}:record:{job}")
    assert await records.stale(clock.now + 1, 10) == ()
    assert await redis.exists(f"{prefix}:open") == 0


# Listing


async def several(records: Records, clock: Clock, count: int) -> list[str]:
    """Jobs of one client that have ended, newest first."""
    jobs: list[str] = []
    for _ in range(count):
        job = (await records.create(new_job((10_000, 10_007)))).job.id
        await records.cancel(job)
        jobs.insert(0, job)
        clock.now += 1
    return jobs


async def listed(records: Records, states: frozenset[JobState], limit: int) -> list[list[str]]:
    """All pages of a client's jobs."""
    pages, cursor = [], None
    while True:
        page = await records.jobs_of(CLIENT, states, limit, cursor)
        pages.append([job.id for job in page.jobs])
        cursor = page.next
        if cursor is None:
            return pages


async def test_jobs_are_listed_newest_first_in_pages(records: Records, clock: Clock) -> None:
    clock.now = 1_795_321_901.0067987  # a store may write this as 1.7953219010067987e+9
    jobs = await several(records, clock, 7)
    await records.create(new_job(client="192.0.2.8"))
    assert await listed(records, ALL, 3) == [jobs[:3], jobs[3:6], jobs[6:]]
    assert await listed(records, ALL, 7) == [jobs]
    assert len((await records.all_jobs(ALL, 100, None)).jobs) == 8
    assert await records.jobs_of("192.0.2.9", ALL, 10, None) == room.JobPage((), None)


async def test_jobs_of_the_same_moment_are_all_listed_once(records: Records, clock: Clock) -> None:
    for _ in range(9):
        await records.cancel((await records.create(new_job())).job.id)
    pages = await listed(records, ALL, 2)
    assert [len(page) for page in pages] == [2, 2, 2, 2, 1]
    assert len(set(itertools.chain(*pages))) == 9


async def test_a_job_in_a_list_is_the_job_without_its_files(records: Records) -> None:
    job, run = await claimed(records, 10_000, 10_007, 10_014, callback=URL)
    await records.update(job, run, completed(10_000))
    await records.update(job, run, running(10_007, 50))
    for end in (False, True):
        if end:
            await records.finish(job, run, JobState.FAILED, "It broke.")
        [found] = (await records.jobs_of(CLIENT, ALL, 10, None)).jobs
        whole = await view(records, job)
        assert found == Summary(**{each.name: getattr(whole, each.name) for each in fields(Summary)})


async def test_a_list_can_be_of_some_states(records: Records, clock: Clock) -> None:
    cancelled = await several(records, clock, 2)
    done = await ended(records)
    assert await listed(records, frozenset({JobState.CANCELLED}), 10) == [cancelled]
    assert await listed(records, frozenset({JobState.COMPLETED}), 10) == [[done]]
    clock.now += KEEP
    assert await listed(records, frozenset({JobState.COMPLETED}), 10) == [[]]
    assert await listed(records, frozenset({JobState.EXPIRED}), 10) == [[done]]
    assert await listed(records, frozenset(), 10) == [[]]


async def test_a_page_looks_at_so_many_jobs_and_no_more(
    records: Records, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = await ended(records)
    clock.now += 1
    await several(records, clock, 5)
    monkeypatch.setattr(room, "SCAN", 2)
    assert await listed(records, frozenset({JobState.COMPLETED}), 10) == [[], [], [done]]


async def test_a_list_goes_on_after_a_job_that_is_forgotten(
    records: Records, redis: Redis, clock: Clock, prefix: str
) -> None:
    jobs = await several(records, clock, 5)
    cursor = (await records.jobs_of(CLIENT, ALL, 2, None)).next
    await redis.delete(*(f"{prefix}:record:{job}" for job in jobs[:2]))
    assert await listed(records, ALL, 10) == [jobs[2:]]
    assert await redis.zcard(f"{prefix}:client:{CLIENT}:jobs") == 3, "the list itself forgets it too"
    rest = await records.jobs_of(CLIENT, ALL, 10, cursor)
    assert [job.id for job in rest.jobs] == jobs[2:]


async def test_lists_that_nobody_reads_do_not_grow_for_ever(
    records: Records, redis: Redis, clock: Clock, prefix: str
) -> None:
    jobs = await several(records, clock, 10)
    await redis.delete(*(f"{prefix}:record:{job}" for job in jobs))
    for _ in range(3):
        clock.now += 1
        await records.create(new_job())
    assert await redis.zcard(f"{prefix}:jobs") == await redis.zcard(f"{prefix}:client:{CLIENT}:jobs") == 3


@pytest.mark.parametrize("cursor", ["", "x", "MTA", "é", "A" * 500])
async def test_a_cursor_that_is_none_is_refused(records: Records, cursor: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        await records.all_jobs(ALL, 10, cursor)


# The store


@pytest.mark.parametrize("odd", ["", "x", UNKNOWN.upper()[:-1] + "A", f"{UNKNOWN}\n", "*", "../" + UNKNOWN])
@pytest.mark.fault(95)
async def test_no_key_is_made_from_what_is_no_id(records: Records, odd: str) -> None:
    for call in (records.view, records.cancel, records.revive, records.events):
        with pytest.raises(ValueError, match="not the id of a job"):
            await call(odd)


@pytest.mark.parametrize("client", ["", "a b", "ü", "a\n", "a" * 129])
async def test_no_key_is_made_from_what_names_no_client(records: Records, client: str) -> None:
    with pytest.raises(ValueError, match="client"):
        await records.create(new_job(client=client))
    with pytest.raises(ValueError, match="client"):
        await records.jobs_of(client, ALL, 10, None)


def test_a_prefix_is_one_plain_word() -> None:
    with pytest.raises(ValueError, match="prefix"):
        Records(Redis(), lambda: 0.0, prefix="a:b")


async def test_a_store_that_forgot_the_scripts_is_told_them_again(records: Records, redis: Redis) -> None:
    job, run = await claimed(records)
    await redis.script_flush()
    await asyncio.gather(*(records.renew(job, run) for _ in range(10)))


WHOLE: dict[str, Change] = {
    **CHANGES,
    "create": lambda records, job, run: records.create(new_job(idempotency_key="another", callback=URL)),
    "claim": lambda records, job, run: records.claim(job, "another worker"),
    "cancel": lambda records, job, run: records.cancel(job),
}


OF_JOB = ("record:{job}", "record:{job}:files", "record:{job}:events", "open")
NEEDED = {
    **dict.fromkeys(("update", "renew", "claim"), OF_JOB),
    **dict.fromkeys(("finish", "cancel"), (*OF_JOB, "client:{client}:open")),
    "create": ("open", "jobs", "client:{client}:open", "client:{client}:jobs"),
}


@pytest.mark.parametrize(
    ("name", "place"), [(name, place) for name, places in NEEDED.items() for place in places]
)
@pytest.mark.fault(92)
async def test_a_key_of_a_wrong_type_stops_a_change_with_nothing_done(
    records: Records, redis: Redis, prefix: str, name: str, place: str
) -> None:
    job, run = await claimed(records)
    key = f"{prefix}:{place.format(job=job, client=CLIENT)}"
    await redis.delete(key)
    await redis.set(key, "a text")
    before = await contents(redis, prefix)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await WHOLE[name](records, job, run)
    assert await contents(redis, prefix) == before


@pytest.mark.parametrize("change", WHOLE.values(), ids=WHOLE)
@pytest.mark.fault(92)
async def test_a_full_store_refuses_a_change_whole(
    records: Records, redis: Redis, prefix: str, change: Change
) -> None:
    job, run = await claimed(records)
    before = await contents(redis, prefix)
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(JobStoreFull):
            await change(records, job, run)
        assert (await view(records, job)).state is JobState.RUNNING
        assert await contents(redis, prefix) == before
    finally:
        await redis.config_set("maxmemory", 0)


@pytest.mark.fault(92)
async def test_a_store_that_is_away_is_told_as_such(tmp_path: Path, clock: Clock) -> None:
    async with Redis.from_url(f"unix://{tmp_path}/nobody") as nobody:
        with pytest.raises(JobStoreDown):
            await Records(nobody, clock).view(UNKNOWN)
