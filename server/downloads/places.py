"""Which places of its clients this process holds in the queue, of which each client has so many.

It knows how pydocket keeps them, and nothing of what is done in one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

if TYPE_CHECKING:
    from docket import ConcurrencyLimit, Docket

log = logging.getLogger("hedgerow.downloads")


class Places:
    """
    What this process holds of the places of its clients. The library would say of each by itself that it is
    still held, in two calls every two seconds: for a thousand jobs, a third of what the process does.
    """

    def __init__(self) -> None:
        self._held: dict[str, set[str]] = {}

    @contextmanager
    def hold(self, limit: ConcurrencyLimit, job_id: str) -> Iterator[None]:
        """While the block runs, the place that *limit* has got for the job is renewed here and not there."""
        if limit._renewal_task is not None:
            limit._renewal_task.cancel()
        holders = self._held.setdefault(limit.concurrency_key, set())
        holders.add(job_id)
        try:
            yield
        finally:
            holders.discard(job_id)
            if not holders:
                self._held.pop(limit.concurrency_key, None)

    async def keep(self, docket: Docket, lost_after: float) -> None:
        """Renew them until cancelled. Who has not held a place for *lost_after* seconds has lost it."""
        while True:
            await asyncio.sleep(lost_after / 4)
            try:
                await self._renew(docket, 4 * lost_after)
            except (RedisError, OSError):
                pass  # they are kept for three more tries
            except Exception:
                log.exception("holding the places of jobs has failed")

    async def _renew(self, docket: Docket, kept: float) -> None:
        """
        Say that all of them are held, which is known for *kept* seconds. One that was given back meanwhile
        stays free.
        """
        if not self._held:
            return
        async with docket.redis() as redis, redis.pipeline(transaction=False) as calls:
            for key, holders in self._held.items():
                calls.zadd(key, dict.fromkeys(holders, time.time()), xx=True)
                calls.expire(key, math.ceil(kept))
            await calls.execute()
