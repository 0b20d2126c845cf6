"""Jobs that only have events, in a real store: what a feed needs of the records, and nothing else."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from server.downloads.feed import START, place
from server.downloads.jobs import Event, File, Job, JobState
from strategies import value

APPEND = """
local id = redis.call('XADD', KEYS[1], '*', 'kind', ARGV[1], 'data', ARGV[2])
if ARGV[3] ~= '' then redis.call('PUBLISH', ARGV[3], id .. '\\n' .. ARGV[1] .. '\\n' .. ARGV[2]) end
return id
"""
STATES = {state.value: state for state in JobState}


@value
class Read:
    """Events that were read, and whether there were others before them."""

    events: tuple[Event, ...]
    complete: bool


class Journal:
    """Records whose jobs are made by their first event."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # its types think that bytes may be text
        self.reads = 0

    async def append(self, job_id: str, kind: str = "progress", size: int = 0, *, tell: bool = True) -> str:
        """Something happens to the job; followers are told of it, unless they are not to be. The id."""
        data = orjson.dumps({"jobId": job_id, "padding": "x" * size})
        channel = f"hedgerow:events:{job_id}" if tell else ""
        made = await self._redis.eval(APPEND, 1, job_id, kind, data, channel)
        assert isinstance(made, bytes)
        return made.decode()

    async def append_many(self, job_id: str, count: int, size: int = 0) -> list[str]:
        """That many events."""
        return [await self.append(job_id, size=size) for _ in range(count)]

    async def events(self, job_id: str, after: str = START, count: int = 500) -> Read:
        """As the records do."""
        self.reads += 1
        known = after == START or bool(await self._redis.xrange(job_id, after, after))
        rows = await self._redis.xrange(job_id, f"({after}", "+", count)
        return Read(tuple(_event(*row) for row in rows), known)

    async def view(self, job_id: str) -> Job | None:
        """As the records do."""
        rows = await self._redis.xrevrange(job_id, count=1)
        if not rows:
            return None
        last = _event(*rows[0])
        state = STATES.get(last.kind, JobState.RUNNING)
        return Job(job_id, "someone", state, (File(70000),), 0.0, last_event=last.id)

    async def trim(self, job_id: str, left: int) -> None:
        """Only the latest events are still known."""
        await self._redis.xtrim(job_id, maxlen=left, approximate=False)

    async def forget(self, job_id: str) -> None:
        """The job is no longer known."""
        await self._redis.delete(job_id)

    async def cut(self) -> None:
        """Close the connection of whoever is subscribed."""
        await self._redis.client_kill_filter(_type="pubsub")

    async def listening(self) -> list[str]:
        """The channels that somebody hears."""
        return sorted(name.decode() for name in await self._redis.pubsub_channels())

    async def subscribers(self) -> list[str]:
        """The ids of the connections that hear channels."""
        return [client["id"] for client in await self._redis.client_list(_type="pubsub")]

    async def pings(self) -> int:
        """How often the store was asked whether it is there."""
        return await self._count("ping", "calls")

    async def refused(self, command: str) -> int:
        """How often a command was not allowed."""
        return await self._count(command, "rejected_calls")

    async def allow(self, rule: str) -> None:
        """Change what clients may do."""
        await self._redis.execute_command("ACL SETUSER", "default", rule)

    async def _count(self, command: str, what: str) -> int:
        told = await self._redis.info("commandstats")
        return int(told.get(f"cmdstat_{command}", {}).get(what, 0))


def _event(event_id: bytes, fields: dict[bytes, bytes]) -> Event:
    return Event(event_id.decode(), fields[b"kind"].decode(), fields[b"data"])


def new_job() -> str:
    """The id of a job that no other test has."""
    return str(uuid.uuid4())


@asynccontextmanager
async def open_journal(url: str) -> AsyncIterator[Journal]:
    """A journal in the store there."""
    async with Redis.from_url(url, retry=Retry(NoBackoff(), 0, ())) as redis:  # nothing happens twice
        yield Journal(redis)


def in_order(ids: list[str]) -> bool:
    """Whether no id comes twice, or late."""
    places = [place(one) for one in ids]
    return places == sorted(set(places))
