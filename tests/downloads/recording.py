"""What the tests of job records share: jobs to make, and all that a store holds, to compare."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from redis.asyncio import Redis

from server.downloads.jobs import File, FileState, JobState
from server.downloads.records import NewJob, Records

ALL = frozenset(JobState)
KEEP = 86_400.0
REMEMBER = 7 * 86_400.0


def new_job(files: Iterable[int] = (10_000,), **changes: Any) -> NewJob:
    """A job that nobody has made before."""
    facts: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "client": "192.0.2.7",
        "file_ids": tuple(files),
        "callback": None,
        "request_id": "a-request",
        "idempotency_key": None,
        "fingerprint": "a-body",
    }
    return NewJob(**{**facts, **changes})


def running(file_id: int, percent: int = 0, **changes: Any) -> File:
    """A file that goes on."""
    return File(file_id, FileState.RUNNING, percent, **{"size": 1000, "attempts": 1, **changes})


def completed(file_id: int) -> File:
    """A file that is there."""
    return File(file_id, FileState.COMPLETED, 100, 1000, 1)


async def claimed(records: Records, *files: int, **changes: Any) -> tuple[str, int]:
    """A new job of those files and the run that works on it."""
    created = await records.create(new_job(files or (10_000,), **changes))
    claim = await records.claim(created.job.id, "a worker")
    assert claim is not None
    return created.job.id, claim.run


async def ended(records: Records, **changes: Any) -> str:
    """A job that is completed."""
    job, run = await claimed(records, 10_000, **changes)
    await records.update(job, run, completed(10_000))
    await records.finish(job, run, JobState.COMPLETED, None)
    return job


async def last_event(records: Records, job: str) -> str:
    """The id of what happened to a job last."""
    found = await records.view(job)
    assert found is not None
    return found.last_event


async def kinds(records: Records, job: str) -> list[str]:
    """What has happened to a job."""
    page = await records.events(job)
    assert page.complete
    return [event.kind for event in page.events]


async def contents(redis: Redis, prefix: str) -> dict[bytes, tuple[bytes | None, bool]]:
    """All that the store holds below *prefix*, and which of it expires."""
    keys = [key async for key in redis.scan_iter(f"{prefix}:*", count=1000)]
    return {key: (await redis.dump(key), await redis.pttl(key) > 0) for key in sorted(keys)}
