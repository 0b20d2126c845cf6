"""Looks after what nobody looks after: jobs that no queue knows, uploads that nobody ends, a missing bucket,
workers that a queue remembers long after their death.

A job is written down before it is queued, and a process may die between the two. Queueing it again costs
nothing if it is there already, so whoever has shown no sign of life for a while is queued again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from server.downloads.engine import Queue
from server.downloads.jobs import ENDED
from server.downloads.objects import ObjectStore, StoreError
from server.downloads.records import Records
from server.job_store.opening import JobStoreError

log = logging.getLogger("hedgerow.downloads")

EVERY = 10.0
"""Seconds between two looks, give or take a fifth."""
SILENT = 30.0
"""Seconds without a sign of life after which a job is queued again; a run gives one every 10."""
AT_ONCE = 200
"""Jobs that are queued again in one look."""
TIDY = 360
"""Of these looks, one in so many is also for dead workers: one an hour, and one after the start."""
DEAD = 6 * 3600.0
"""Seconds without a sign of life after which a worker is forgotten. If it lives, it loses nothing by that."""
PREPARE = 60.0
"""Seconds between two looks at whether there is a bucket: an object store may come back without it."""
SWEEP = 60
"""Of these looks, one in so many sweeps."""
STALE_UPLOAD = 86_400.0
"""Seconds after which an upload that was not ended has been forgotten; none takes as long."""


class Rescue:
    """
    Args:
        clock: seconds since 1970.
        rng: luck, so that servers that began together do not look together.
    """

    def __init__(
        self,
        records: Records,
        jobs: Queue,
        callbacks: Queue,
        objects: ObjectStore,
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._records = records
        self._jobs = jobs
        self._callbacks = callbacks
        self._objects = objects
        self._clock = clock
        self._rng = rng

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after them while the block runs."""
        tasks = [
            asyncio.create_task(self._look_after_jobs(), name="rescue of jobs"),
            asyncio.create_task(self._look_after_objects(), name="rescue of objects"),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def look(self) -> int:
        """
        Queue again what has been silent; returns how many jobs that were.

        Raises:
            JobStoreError: the rest has to wait for the next look.
        """
        found = await self._records.stale(self._clock() - SILENT, AT_ONCE)
        for job_id in found:
            job = await self._records.view(job_id)
            if job is None:
                continue
            queue = self._callbacks if job.state in ENDED else self._jobs
            await queue.put(job.id, job.client)
        return len(found)

    async def _look_after_jobs(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(EVERY * self._rng.uniform(0.8, 1.2))
            try:
                await self.look()
                looks += 1
                if looks % TIDY == 1:
                    for queue in (self._jobs, self._callbacks):
                        await queue.forget_dead(DEAD)
            except JobStoreError as error:
                log.debug("silent jobs were not looked for: %s", error.detail)
            except Exception:
                log.exception("looking for silent jobs has failed")

    async def _look_after_objects(self) -> None:
        looks = 0
        while True:
            pause = EVERY
            try:
                await self._objects.prepare()
                looks, pause = looks + 1, PREPARE
                if looks % SWEEP == 1 and (gone := await self._objects.sweep(STALE_UPLOAD)):
                    log.info("%d uploads that were never ended are gone", gone)
            except StoreError as error:
                log.warning("%s", error.detail)
            except Exception:
                log.exception("looking after objects has failed")
            await asyncio.sleep(pause)
