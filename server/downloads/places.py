"""Which places of its clients this process holds in the queue, of which each client has so many.

It knows how pydocket keeps them, and nothing of what is done in one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from docket import ConcurrencyLimit, Docket

log = logging.getLogger("hedgerow.downloads")


class Places:
    """
    What this process holds of the places of its clients. The library would say of each by itself that it is
    still held, in two calls every two seconds: for a thousand jobs, a third of what the process does.

    It takes a place for lost when it was not renewed for the time after which a job comes back from a worker
    that is dead. Either may be first then: the place, which goes to another job of the client, and this one
    to the end of their line; or the job, which finds its own place taken, by itself. So a place is held for
    twice that time here, and a job that comes back has it again.

    Args:
        lost_after: seconds after which a job of a dead worker comes back.
    """

    def __init__(self, lost_after: float) -> None:
        self._lost_after = lost_after
        self._held: dict[str, set[str]] = {}

    @asynccontextmanager
    async def hold(self, docket: Docket, limit: ConcurrencyLimit, job_id: str) -> AsyncIterator[None]:
        """While the block runs, the place that *limit* has got for the job is renewed here and not there."""
        if limit._renewal_task is not None:
            limit._renewal_task.cancel()
        holders = self._held.setdefault(limit.concurrency_key, set())
        holders.add(job_id)
        try:
            await self._renew(docket, {limit.concurrency_key: [job_id]})
            yield
        finally:
            holders.discard(job_id)
            if not holders:
                self._held.pop(limit.concurrency_key, None)

    async def keep(self, docket: Docket) -> None:
        """Renew them until cancelled."""
        while True:
            await asyncio.sleep(self._lost_after / 4)
            try:
                await self._renew(docket, self._held)
            except Exception:
                log.exception("holding the places of jobs has failed")

    async def give_back(self, docket: Docket, client: str, job_id: str) -> bool:
        """
        The job has come back: give back the place that it had, for it to take again; returns whether it had
        one. None that was renewed within half of `lost_after` is given back: who lives does so twice in it.
        """
        key = f"{docket.prefix}:concurrency:client:{client}"
        with suppress(RedisError, OSError):  # then it has to wait
            async with docket.redis() as redis:
                held = await redis.zscore(key, job_id)
                if held is not None and held <= time.time() + self._lost_after / 2:
                    return bool(await redis.zrem(key, job_id))
        return False

    async def _renew(self, docket: Docket, held: Mapping[str, Collection[str]]) -> None:
        """Say that all of them are held. One that was given back meanwhile stays free."""
        if not held:
            return
        until = time.time() + self._lost_after
        with suppress(RedisError, OSError):  # they are kept for more tries
            async with docket.redis() as redis, redis.pipeline(transaction=False) as calls:
                for key, holders in held.items():
                    calls.zadd(key, dict.fromkeys(holders, until), xx=True)
                    calls.expire(key, math.ceil(4 * self._lost_after))
                await calls.execute()
