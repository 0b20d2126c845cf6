"""The job store as the rest of the server has it: a client with bounds, and what can be said about the store.

It knows where the store is and whether what it acknowledges lasts. It does not know what is kept in it, and
a store that is away does not keep the server from starting: readiness tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.maint_notifications import MaintNotificationsConfig

from server.job_store.embedded import embedded_valkey
from server.job_store.faults import (
    REFUSES,
    JobStoreDown,
    JobStoreError,
    JobStoreFull,
    job_store_errors,
)

__all__ = [
    "JobStore",
    "JobStoreConfig",
    "JobStoreDown",
    "JobStoreError",
    "JobStoreFull",
    "job_store_errors",
    "open_job_store",
]

log = logging.getLogger("hedgerow.job_store")

SCHEMES = ("redis", "rediss", "unix")
FOLDER = "valkey"
"""Where an embedded store has its data, in the data folder."""
CHECK = 1.0
"""Seconds that a check takes at most."""
EMBEDDED_STARTS = 3.0
"""Seconds for which the start of the server waits for an embedded store."""
SOON, AGAIN = 0.05, 1.0
"""Seconds between attempts to meet a store that is away: first, and at most."""
IDLE = 15.0
"""Seconds after which a connection is tried before it is used: a firewall may have forgotten it."""

NOT_APPENDING = (
    "It does not write an append-only file: jobs that were accepted are lost when it stops. "
    "Set 'appendonly yes' there."
)
LATE = (
    "Its appendfsync is '{}': a job that was accepted in the last two seconds may be lost when it is killed. "
    "Set 'appendfsync always' there."
)
EVICTING = (
    "Its maxmemory-policy is '{}': it throws away jobs that were accepted when its memory is full. "
    "Set 'maxmemory-policy noeviction' there."
)
UNKNOWN = (
    "It does not tell whether it writes an append-only file; if not, jobs that were accepted are lost when "
    "it stops. Make sure that 'appendonly yes' is set there, or what the provider offers instead."
)
NOT_A_URL = (
    "REDIS_URL is not the address of a job store. It is redis://[user:password@]host[:port][/db], rediss://… "
    "or unix:///path, with special characters in the password percent-encoded."
)


@dataclass(frozen=True, slots=True, repr=False)
class JobStoreConfig:
    """
    Attributes:
        url: ``redis://``, ``rediss://`` or ``unix://``; None for the embedded store.
        data_dir: the folder of everything embedded; used when there is no *url*.
        patience: seconds that an answer may take, and so the wait for a connection.
        connections: how many there may be, for this process.
    """

    url: str | None
    data_dir: Path
    patience: float = 2.0
    connections: int = 64

    def __repr__(self) -> str:
        where = self.data_dir if self.url is None else shown(self.url)
        return f"JobStoreConfig({where}, patience={self.patience}, connections={self.connections})"


class JobStore:
    """
    A store, as this process reaches it. It need not be there.

    Attributes:
        url: where it is, password included, for other clients.
        redis: a client that answers bytes. A command takes `JobStoreConfig.patience` seconds at most, the
            wait for a connection included. It does not try again: what timed out may have been done. Use it
            under `job_store_errors`.
        embedded: whether it is ours.
    """

    def __init__(self, config: JobStoreConfig, url: str, *, embedded: bool) -> None:
        self.url = url
        self.embedded = embedded
        self.redis: Redis = _Bounded(config.patience, _pool(url, config))
        self._patience = min(config.patience, CHECK)

    def __repr__(self) -> str:
        return f"JobStore({shown(self.url)}, embedded={self.embedded})"

    async def check(self) -> None:
        """
        Return if it answers within its patience, or a second.

        Raises:
            JobStoreError: if not.
        """
        try:
            with job_store_errors():
                async with asyncio.timeout(self._patience):
                    await self.redis.execute_command("PING")  # type: ignore[no-untyped-call]
        except RedisError as error:
            raise JobStoreDown(REFUSES) from error

    async def durable(self) -> str | None:
        """
        None if what it acknowledges outlives it; else sentences: what may be lost, and what to set.

        Raises:
            JobStoreError: if it does not answer.
        """
        with job_store_errors():
            try:
                found = await self.redis.info("everything")
            except ResponseError:
                return UNKNOWN
            flushes = "always"
            with suppress(ResponseError):  # managed stores forbid it, and have their own word on it
                flushes = (await self.redis.config_get("appendfsync")).get("appendfsync") or flushes
        told = _doubt(str(found.get("aof_enabled", "")), str(found.get("maxmemory_policy", "noeviction")))
        return LATE.format(flushes) if told is None and flushes != "always" else told


@asynccontextmanager
async def open_job_store(config: JobStoreConfig) -> AsyncIterator[JobStore]:
    """
    The store that *config* names, or the embedded one. Whether it answers is another question, see `check`.

    Raises:
        JobStoreError: if there never can be one: no usable address, folder or binary.
    """
    async with AsyncExitStack() as stack:
        url = config.url
        if url is None:
            url = await stack.enter_async_context(embedded_valkey(config.data_dir / FOLDER))
        store = JobStore(config, url, embedded=config.url is None)
        stack.push_async_callback(store.redis.aclose)
        meeting = asyncio.create_task(_meet(store), name="meeting the job store")
        stack.push_async_callback(_end, meeting)
        if store.embedded:
            await asyncio.wait({meeting}, timeout=EMBEDDED_STARTS)
        yield store


def shown(url: str) -> str:
    """*url* for people: without user, password and options, in which there may be another password."""
    try:
        parts = _parts(url)
    except ValueError:
        return "REDIS_URL"
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    return f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"


async def _meet(store: JobStore) -> None:
    """Say once which store it is, when it answers for the first time; say once if it does not yet."""
    pause = SOON
    while True:
        try:
            await store.check()
            doubt = await store.durable()
            break
        except JobStoreError as error:
            if pause == SOON and not store.embedded:
                log.warning("The job store %s: %s (%s)", shown(store.url), error, error.__cause__)
        await asyncio.sleep(pause)
        pause = min(2 * pause, AGAIN)
    kind = "The embedded job store" if store.embedded else "The job store"
    log.info("%s is %s.", kind, shown(store.url))
    if doubt is not None:
        log.warning("JOBS CAN BE LOST by the job store %s. %s", shown(store.url), doubt)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()


def _doubt(appending: str, policy: str) -> str | None:
    """What is to be feared of a server that says this of itself."""
    if appending not in ("0", "1"):
        return UNKNOWN
    if appending == "0":
        return NOT_APPENDING
    return None if policy == "noeviction" else EVICTING.format(policy)


class _Bounded(Redis):
    """A client whose patience covers a command as a whole: pool, connection, greeting and answer."""

    def __init__(self, patience: float, pool: BlockingConnectionPool) -> None:
        super().__init__(connection_pool=pool)
        self.auto_close_connection_pool = True  # as `Redis.from_pool` has it
        self._patience = patience

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            async with asyncio.timeout(self._patience):
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        finally:
            if task and task.cancelling() > before:
                # Python 3.11's wait_for, with which the library sends, may have swallowed it.
                raise asyncio.CancelledError


def _pool(url: str, config: JobStoreConfig) -> BlockingConnectionPool:
    """Raises JobStoreError, without a cause: what went wrong in reading a URL quotes parts of it."""
    try:
        _parts(url)
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=config.connections,
            timeout=config.patience,
            socket_timeout=config.patience,
            socket_connect_timeout=config.patience,
            health_check_interval=IDLE,
            retry=Retry(NoBackoff(), 0),
            # With these on, a connection that the server has closed is found out only by a failing command.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
        pool.make_connection()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, RedisError):
        raise JobStoreError(NOT_A_URL) from None
    return pool


def _parts(url: str) -> SplitResult:
    """Raises ValueError, also where a password with special characters makes it mean something else."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or parts.fragment:
        raise ValueError("scheme, fragment")
    if parts.scheme != "unix" and ("@" in parts.path + parts.query or parts.port == 0):
        raise ValueError("host")
    return parts
