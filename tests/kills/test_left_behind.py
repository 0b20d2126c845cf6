"""What a killed process, or a lost word, leaves behind is found by those who come later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from server.downloads.engine import JOB, Again, Queue, open_queue, working
from server.downloads.service import _webhook_secrets
from server.settings import load_settings
from tests.job_store.stores import Valkey, eventually, valkey

STREAM, LATER = "hedgerow:job:stream", "hedgerow:job:queue"
SLOTS, WAITERS = "hedgerow:job:concurrency:client:me", "hedgerow:job:concurrency:client:me:waiters"
GROUP = "docket-workers"
AGAIN = 20
AGES = 600.0
"""Seconds; a twentieth of it is longer than any test takes."""


@pytest.fixture(scope="session")
def queue_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A job store for all tests here."""
    with valkey(tmp_path_factory.mktemp("queue"), appendfsync="no") as store:
        yield store


@pytest.fixture
async def redis(queue_store: Valkey) -> AsyncIterator[Redis]:
    """A client of that store, which is empty."""
    async with Redis.from_url(queue_store.url) as client:
        await client.flushall()
        yield client


class Work:
    """Notes who is looked at, and holds them while it is told to."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.go = asyncio.Event()

    async def __call__(self, job_id: str, look: int) -> Again | None:
        self.seen.append(job_id)
        await self.go.wait()
        return None


async def set_aside(queue: Queue, redis: Redis, work: Work) -> None:
    """A job is under way, and another one waits for it, as their client may have one at a time."""
    await queue.put("first", "me")

    async def begun() -> bool:
        return work.seen == ["first"]

    async def waits() -> bool:
        return await redis.xlen(WAITERS) == 1 and await redis.xlen(STREAM) == 1

    await eventually(begun)
    await queue.put("second", "me")
    await eventually(waits)


async def test_a_job_that_was_set_aside_is_queued_once_however_often_it_is_put(
    redis: Redis, queue_store: Valkey
) -> None:
    """What was there twice was woken in the place of others, until nobody was."""
    work = Work()
    async with open_queue(queue_store.url, JOB, work, 1) as queue, working(queue, 10):
        await set_aside(queue, redis, work)
        for _ in range(AGAIN):
            await queue.put("second", "me")

        async def idle() -> bool:
            return await redis.xlen(STREAM) == 1

        await eventually(idle)
        assert await redis.xlen(WAITERS) == 1
        work.go.set()

        async def over() -> bool:
            return await redis.xlen(STREAM) == await redis.xlen(WAITERS) == 0

        await eventually(over)
    assert work.seen == ["first", "second"]


async def test_a_job_that_was_set_aside_and_forgotten_goes_on_when_it_is_put_again(
    redis: Redis, queue_store: Valkey
) -> None:
    work = Work()
    async with open_queue(queue_store.url, JOB, work, 1) as queue, working(queue, 10):
        await set_aside(queue, redis, work)
        await redis.delete(SLOTS, LATER)  # nobody will release a place, and nobody will look
        await queue.put("second", "me")

        async def both() -> bool:
            return work.seen == ["first", "second"]

        await eventually(both)
        work.go.set()


async def test_a_job_that_was_cancelled_while_set_aside_can_be_put_again(
    redis: Redis, queue_store: Valkey
) -> None:
    work = Work()
    async with open_queue(queue_store.url, JOB, work, 1) as queue, working(queue, 10):
        await set_aside(queue, redis, work)
        await queue.drop("second")
        await queue.put("second", "me")
        work.go.set()

        async def both() -> bool:
            return work.seen == ["first", "second"]

        await eventually(both)


async def test_a_long_job_keeps_its_place_and_one_that_has_ended_does_not(
    redis: Redis, queue_store: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.downloads.engine.REDELIVERY", 1.0)
    work = Work()
    async with open_queue(queue_store.url, JOB, work, 1) as queue, working(queue, 10):
        await set_aside(queue, redis, work)
        since = await redis.zscore(SLOTS, "first")
        assert since is not None

        async def long() -> bool:
            return (await redis.zscore(SLOTS, "first") or 0.0) > since + 2.0

        await eventually(long)
        assert work.seen == ["first"]
        assert await redis.zcard(SLOTS) == 1
        work.go.set()

        async def free() -> bool:
            return work.seen == ["first", "second"] and not await redis.exists(SLOTS)

        await eventually(free)


async def test_a_place_is_kept_for_its_job_until_that_has_had_its_time_to_come_back(
    redis: Redis, queue_store: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others of its client took the places of a dead worker's jobs, which went to the end of their line."""
    monkeypatch.setattr("server.downloads.engine.REDELIVERY", AGES)
    work = Work()
    async with open_queue(queue_store.url, JOB, work, 1) as queue, working(queue, 10):
        began = time.time()
        await set_aside(queue, redis, work)
        lost = (await redis.zscore(SLOTS, "first") or 0.0) + AGES
        assert lost - began >= 2 * AGES
        work.go.set()


@pytest.mark.parametrize(
    ("lost", "goes_on"), [(-1.0, False), (-0.55, False), (-0.45, True), (0.5, True), (None, False)]
)
async def test_a_job_of_a_dead_worker_does_not_wait_for_the_place_that_it_had_itself(
    redis: Redis, queue_store: Valkey, monkeypatch: pytest.MonkeyPatch, lost: float | None, goes_on: bool
) -> None:
    """
    If the place was renewed after the job, the job went on after twice the time: 16 to 21 s. One that is held
    for most of the time to come is that of somebody who lives. Who has lost it to another job has to wait.
    """
    monkeypatch.setattr("server.downloads.engine.REDELIVERY", AGES)
    work = Work()
    async with open_queue(queue_store.url, JOB, work, 1) as queue:
        await redis.xgroup_create(STREAM, GROUP, mkstream=True)
        await queue.put("first", "me")
        taken: Any = await redis.xreadgroup(GROUP, "dead", {STREAM: ">"})
        [[_, [(message, _)]]] = taken
        await redis.xclaim(STREAM, GROUP, "dead", 0, [message], idle=round(2 * AGES * 1000))
        now = time.time()
        await redis.zadd(SLOTS, {"other": now} if lost is None else {"first": now - lost * AGES})
        async with working(queue, 10):

            async def found() -> bool:
                return bool(work.seen) or await redis.xlen(WAITERS) == 1

            await eventually(found)
            assert work.seen == ["first"] * goes_on
            work.go.set()


def test_a_server_that_was_killed_while_it_made_its_secret_can_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with the same process id, which in a container is always the same."""
    monkeypatch.setattr("os.link", _killed)
    monkeypatch.setattr(Path, "unlink", _killed)
    settings = load_settings({})
    with pytest.raises(Killed):
        _webhook_secrets(settings, tmp_path)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    assert _webhook_secrets(settings, tmp_path) == _webhook_secrets(settings, tmp_path)


class Killed(BaseException):
    """The process ends here."""


def _killed(*args: object, **named: object) -> None:
    raise Killed
