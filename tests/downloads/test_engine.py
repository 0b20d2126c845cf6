"""The queue of jobs: which workers it remembers, over a real store, and who hands over."""

from __future__ import annotations

import asyncio
import json
import pickle
import pickletools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from server.downloads import rescue
from server.downloads.engine import CALLBACK, JOB, Again, open_queue, working
from server.downloads.turns import Turns
from tests.downloads.conftest import Start
from tests.downloads.whole import PATIENCE
from tests.integration.nginx import free_port
from tests.job_store.stores import eventually, valkey

HOUR = 3600.0
STREAM, GROUP = "hedgerow:{}:stream", "docket-workers"
"""As the library names them."""


@pytest.fixture
async def redis(job_store: str) -> AsyncIterator[Redis]:
    """A client of the store."""
    async with Redis.from_url(job_store) as client:
        yield client


async def consumers(redis: Redis, kind: str = JOB) -> set[str]:
    """The workers that the queue of that kind knows."""
    return {one["name"].decode() for one in await redis.xinfo_consumers(STREAM.format(kind), GROUP)}


async def dies(redis: Redis, name: str, kind: str = JOB) -> None:
    """A worker of that name has come, and has died with nothing under way."""
    await redis.xgroup_createconsumer(STREAM.format(kind), GROUP, name)


async def nothing(job_id: str, look: int) -> Again | None:
    """There is nothing to do."""
    return None


async def test_a_dead_worker_is_forgotten_if_nothing_was_under_way_and_in_time(
    redis: Redis, job_store: str
) -> None:
    stream = STREAM.format(JOB)
    async with open_queue(job_store, JOB, nothing, 1) as queue:
        assert await queue.forget_dead(0.0) == 0, "there is no queue yet"
        await redis.xgroup_create(stream, GROUP, mkstream=True)
        await dies(redis, "dead")
        await queue.put("job", "me", new=True)
        await redis.xreadgroup(GROUP, "dead at a job", {stream: ">"})
        assert await queue.forget_dead(HOUR) == 0
        assert await consumers(redis) == {"dead", "dead at a job"}
        assert await queue.forget_dead(0.0) == 1
        assert await consumers(redis) == {"dead at a job"}


async def test_a_worker_that_is_taken_for_dead_works_on(redis: Redis, job_store: str) -> None:
    looked = asyncio.Event()

    async def work(job_id: str, look: int) -> Again | None:
        looked.set()
        return None

    async with open_queue(job_store, JOB, work, 1) as queue, working(queue, 1), asyncio.timeout(PATIENCE):
        for number in range(20):
            looked.clear()
            await queue.forget_dead(0.0)
            await queue.put(f"job {number}", "me", new=True)
            await queue.forget_dead(0.0)
            await looked.wait()


async def test_connections_that_the_store_has_closed_meanwhile_are_made_anew(
    tmp_path: Path,
) -> None:
    """Only with TCP were they found out by a failure: callers were told 503 of jobs that were accepted."""
    port = str(free_port())
    with valkey(tmp_path, port=port):
        url = f"redis://127.0.0.1:{port}"
        async with Redis.from_url(url) as operator, open_queue(url, JOB, nothing, 1) as queue:
            for _ in range(3):
                await asyncio.gather(*(queue.put(f"job {number}", "me") for number in range(8)))
                await operator.client_kill_filter(_type="normal", skipme=True)
                await asyncio.gather(*(queue.drop(f"job {number}") for number in range(8)))
                await operator.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.parametrize("kind", [JOB, CALLBACK])
async def test_a_server_forgets_dead_workers_now_and_then(
    start: Start, redis: Redis, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(rescue, "EVERY", 0.01)
    monkeypatch.setattr(rescue, "TIDY", 2)
    monkeypatch.setattr(rescue, "DEAD", 0.0)
    site = await start()
    await site.completed(70000)
    await dies(redis, "dead", kind)

    async def forgotten() -> bool:
        return "dead" not in await consumers(redis, kind)

    await eventually(forgotten)
    await site.completed(70000)


async def test_work_that_begins_while_all_is_handed_over_is_handed_over_too() -> None:
    """It had escaped, and the worker took no other job until it had ended."""
    turns = Turns()

    async def work(*, forever: bool) -> None:
        async with asyncio.timeout(None) as scope:
            with turns.scope(scope):
                await (asyncio.Event().wait() if forever else asyncio.sleep(0))

    turns.hand_over()
    with pytest.raises(TimeoutError):
        await work(forever=True)
    turns.begin()
    await work(forever=False)


async def test_what_is_queued_of_a_job_is_its_id_and_its_client_as_data_that_json_could_hold(
    start: Start, redis: Redis
) -> None:
    """The library pickles it. Nothing in it may name code that a worker would run to read it."""
    site = await start(DOWNLOAD_WORKERS="off", TRUSTED_PROXIES="127.0.0.1")
    job_id = await site.job(70000, 70007, callback="https://example.com/hook", X_Forwarded_For="203.0.113.7")
    queued: Any = await redis.xrange(STREAM.format(JOB))
    [(_, message)] = queued
    assert (message[b"function"], message[b"key"]) == (JOB.encode(), job_id.encode())
    for name, plain in ((b"args", [job_id, "203.0.113.7"]), (b"kwargs", {})):
        steps = {step.name for step, *_ in pickletools.genops(message[name])}
        assert not steps & {"GLOBAL", "STACK_GLOBAL", "INST", "REDUCE", "BUILD", "NEWOBJ", "EXT1"}
        found = pickle.loads(message[name])  # noqa: S301 - it was just looked at
        assert json.loads(json.dumps(found)) == plain
