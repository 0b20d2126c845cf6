"""Where jobs wait for their turn and are worked on: pydocket, over the job store. Only `places` knows it too.

What is queued says "look at this job" and no more; what the job is stands in its record. So it is harmless to
queue a job twice, or one that has ended, and whatever the queue might lose can be queued again.

The library takes over a second to load: that waits until a queue is opened, or is done before a fork by
`load_queue`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

from redis.exceptions import ConnectionError as StoreConnectionError
from redis.exceptions import RedisError

from server.downloads.places import Places
from server.downloads.turns import Turns
from server.job_store.opening import job_store_errors
from strategies import value

if TYPE_CHECKING:
    from docket import Docket, Worker
    from redis.asyncio import Redis

T = TypeVar("T")

log = logging.getLogger("hedgerow.downloads")

JOB, CALLBACK = "job", "callback"
REDELIVERY = 8.0
"""Seconds after which others take up what a dead worker had; a living one says so four times as often."""
POLL = 0.1
"""Seconds that a place may stay empty once a job has ended, when all were taken."""
PATIENCE = 2.0
"""Seconds that putting a job into the queue may take."""
AT_ONCE = 32
"""Calls to the queue from outside that are under way; others wait for their turn."""
CONNECTIONS = 1000
"""Those of one queue, at most: beyond it the library fails and does not wait. Left alone, from 100 on."""
RESTART = 1.0
"""Seconds before the work is taken up again after the job store failed."""
LETTING_GO = 3.0
"""Seconds that a worker has to hand over before what it waits for is given up, one thing after the other."""
AFTER_A_BUG = 5.0
"""Seconds before a job is looked at again that has met one."""
REMEMBERED = 3600.0
"""Seconds for which the queue knows what has ended. Nobody asks it: records remember."""
ANY = 2**31
"""Places, of which nobody has as many."""
_FORGET_DEAD = Path(__file__).with_name("forget_dead.lua")


@value
class Again:
    """It could not be done now, and should be looked at again in so many *seconds*."""

    seconds: float


Work: TypeAlias = Callable[[str, int], Awaitable[Again | None]]
"""
Looks at a job, by id, for the n-th time, from 0; None: there is nothing left to do. Being cancelled, it
leaves the job to whoever looks next. What it raises is a bug, after which it is called again.
"""


class Queue:
    """
    One kind of work in one queue. Made by `open_queue`.

    Args:
        docket: the queue.
        kind: the name of its task.
        most_per_client: as `open_queue` has it.
    """

    def __init__(self, docket: Docket, kind: str, most_per_client: int) -> None:
        self._docket = docket
        self._kind = kind
        self._most_per_client = most_per_client
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def put(self, job_id: str, client: str, *, new: bool = False) -> None:
        """
        See to it that the job is looked at; without effect while it is waiting for that, or being looked at.
        One that is *new* was never put before.

        Raises:
            JobStoreError: it is not known whether it will be.
        """
        await self._ask(lambda: self._put(job_id, client, new))

    async def drop(self, job_id: str) -> None:
        """
        Take it out of the queue; whoever works on it is cancelled.

        Raises:
            JobStoreError: it is not known whether that was done.
        """
        await self._ask(lambda: self._docket.cancel(job_id))

    async def forget_dead(self, idle: float) -> int:
        """
        Forget the workers that have nothing under way and have asked for nothing for *idle* seconds; returns
        how many. The library keeps them for ever. One that lives (before Redis 7.2 also who asked and got
        nothing counts as silent) is known again with its next job.

        Raises:
            JobStoreError: it is not known whether that was done.
        """
        return await self._ask(lambda: self._forget_dead(round(idle * 1000)))

    async def _ask(self, act: Callable[[], Awaitable[T]]) -> T:
        """
        What *act* returns, which does no harm if it is done twice. It is, when the store has closed a
        connection while nobody used it: the library only finds out by failing.
        """
        with job_store_errors():
            async with asyncio.timeout(PATIENCE), self._turns:
                try:
                    return await act()
                except StoreConnectionError:
                    async with self._docket.redis() as redis:
                        await cast("Redis", redis).connection_pool.disconnect(inuse_connections=False)
                    return await act()

    async def _put(self, job_id: str, client: str, new: bool) -> None:
        if not new and (waiters := await self._set_aside(job_id)):
            from docket.dependencies._concurrency import _safeguard_wake

            wake = self._docket.add(_safeguard_wake, key=f"wake:{waiters}")
            await wake(waiter_stream=waiters, max_concurrent=self._most_per_client)
        else:
            await self._docket.add(self._kind, key=job_id)(job_id, client)

    async def _forget_dead(self, idle_ms: int) -> int:
        async with self._docket.redis() as redis:
            script = await redis.script_load(_FORGET_DEAD.read_text("utf-8"))
            return int(await redis.evalsha(script, 1, self._docket.stream_key, idle_ms))

    async def _set_aside(self, job_id: str) -> str | None:
        """
        Where the job waits because its client has enough under way; None: it does not. The library does not
        know such a job when it is added again. It would be there twice, and what is there twice is woken in
        the place of others.
        """
        run = self._docket.runs_key(job_id)
        async with self._docket.redis() as redis:
            waiters = await redis.hget(run, "waiter_stream")
            if waiters is None or await redis.hget(run, "state") != b"scheduled":
                return None
        return waiters.decode()


def load_queue() -> None:
    """Load the library now, so that processes which are forked from this one need not."""
    import docket.dependencies  # noqa: F401


@asynccontextmanager
async def open_queue(url: str, kind: str, work: Work, most_per_client: int) -> AsyncIterator[Queue]:
    """
    The queue of *kind*; the store at *url* need not be there yet.

    Args:
        work: what is to be done with a job; called only inside `working`.
        most_per_client: jobs of one client that are worked on at a time, over all processes.
    """
    from docket import Docket

    # The end of a block comes while the connections of the store are gone; they close in either case.
    async with Docket(
        name=f"hedgerow:{kind}", url=_roomy(url), execution_ttl=timedelta(seconds=REMEMBERED)
    ) as docket:
        docket.register(_task(work, most_per_client), names=[kind])
        yield Queue(docket, kind, most_per_client)


def _roomy(url: str) -> str:
    """*url* with `CONNECTIONS`, if its owner has not said how many."""
    query = urlsplit(url).query
    if "max_connections=" in query:
        return url
    return f"{url}{'&' if query else '?'}max_connections={CONNECTIONS}"


@asynccontextmanager
async def working(queue: Queue, places: int) -> AsyncIterator[None]:
    """While the block runs, up to *places* jobs of *queue* are worked on. At its end they are handed over."""
    from docket import Worker

    name = f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}"
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(
            Worker(
                queue._docket,
                name=name,
                concurrency=places,
                redelivery_timeout=timedelta(seconds=REDELIVERY),
                reconnection_delay=timedelta(seconds=RESTART),
                minimum_check_interval=timedelta(seconds=POLL),
                schedule_automatic_tasks=False,
            )
        )
        task = asyncio.create_task(_keep_working(worker), name=f"working on {queue._kind}s")
        try:
            yield
        finally:
            task.cancel()
            while (await asyncio.wait([task], timeout=LETTING_GO))[1]:
                task.cancel()  # a store that hangs keeps it, one answer after the other


async def _keep_working(worker: Worker) -> None:
    """The worker goes on by itself after failures of the store; here, after those of the library too."""
    while True:
        try:
            await worker.run_forever()
        except Exception:
            log.exception("working on jobs has failed; it goes on in %.0f s", RESTART)
            await asyncio.sleep(RESTART)
        else:
            return


def _task(work: Work, most_per_client: int) -> Callable[..., Awaitable[None]]:
    from docket import ConcurrencyLimit, Retry
    from docket.dependencies import Dependency, current_docket, current_execution

    turns, places = Turns(), Places(REDELIVERY)

    class Session(Dependency["Session"]):
        """Known to the library by being a parameter's default."""

        async def __aenter__(self) -> Session:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        @classmethod
        @asynccontextmanager
        async def worker_lifecycle(cls, docket: Docket, worker: Worker) -> AsyncIterator[None]:
            """Entered around the time in which a worker takes jobs; when it is over, for its end or because
            the store has failed, the worker waits for those that it has."""
            turns.begin()
            renewal = asyncio.create_task(places.keep(docket), name=f"{docket.name}: places")
            try:
                yield
            finally:
                renewal.cancel()
                turns.hand_over()
                await asyncio.wait([renewal])

    class Place(ConcurrencyLimit):
        """One of so many that a client has; for a job of a dead worker, the one that it had there."""

        async def __aenter__(self) -> ConcurrencyLimit:
            job, docket = current_execution.get(), current_docket.get()
            if not (job.redelivered and await places.give_back(docket, job.get_argument("client"), job.key)):
                return await super().__aenter__()
            limit = await ConcurrencyLimit("client", ANY).__aenter__()  # somebody may just have taken it
            limit.max_concurrent = most_per_client
            return limit

    async def look_at(
        job_id: str,
        client: str,
        again: Retry = Retry.forever(),  # noqa: B008 - the library reads the defaults
        limit: ConcurrencyLimit = Place("client", most_per_client),  # noqa: B008
        session: Session = Session(),  # noqa: B008
    ) -> None:
        seconds = 0.0
        scope = asyncio.timeout(None)
        try:
            async with scope:
                with turns.scope(scope):
                    async with places.hold(current_docket.get(), limit, job_id):
                        found = await work(job_id, again.attempt - 1)
                if found is None:
                    return
                seconds = found.seconds
        except Exception:
            if not scope.expired():
                log.exception("job %s: looking at it has failed", job_id)
                seconds = AFTER_A_BUG
        again.after(timedelta(seconds=seconds))

    return look_at


class Quiet(logging.Filter):
    """
    Leaves out what the library says of failures of the store, with tracebacks, every second of an outage, and
    of jobs that are looked at again, as if that were an error. The job store says itself when it is away.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether *record* is worth a line."""
        error = record.exc_info[1] if record.exc_info else None
        expected = isinstance(error, (RedisError, OSError)) or type(error).__name__ == "ForcedRetry"
        return record.levelno >= logging.ERROR and not expected


for _name in ("worker", "strikelist", "dependencies", "_redelivery", "docket"):
    logging.getLogger(f"docket.{_name}").addFilter(Quiet())
