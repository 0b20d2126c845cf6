"""What a killed process, or a lost word, leaves behind is found by those who come later."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from server.downloads.engine import JOB, Again, Queue, open_queue, working
from server.downloads.service import _webhook_secrets
from server.settings import load_settings
from tests.job_store.stores import Valkey, eventually, valkey

STREAM, LATER = "hedgerow:job:stream", "hedgerow:job:queue"
SLOTS, WAITERS = "hedgerow:job:concurrency:client:me", "hedgerow:job:concurrency:client:me:waiters"
AGAIN = 20


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
