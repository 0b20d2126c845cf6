"""All that downloads stand on, opened in order and closed in the opposite one: stores, queue, feed, work.

The server and ``python -m server worker`` open the same; only the server has routes over it.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.downloads import documents
from server.downloads.callbacks import Callbacks
from server.downloads.engine import CALLBACK, JOB, Queue, Work, open_queue, working
from server.downloads.feed import open_feed
from server.downloads.handlers import Service
from server.downloads.jobs import Job
from server.downloads.local_objects import LocalObjects, open_local_objects
from server.downloads.metrics import Metrics
from server.downloads.objects import ObjectStore
from server.downloads.records import Records
from server.downloads.rescue import Rescue
from server.downloads.signed_urls import UrlSigner, load_secret
from server.downloads.source import NoSuchFile, Source, SourceFailed, store_file
from server.downloads.sse import Streams
from server.downloads.work import Failed, Progress, Worker
from server.job_store.opening import JobStore, JobStoreConfig, JobStoreError, open_job_store
from server.settings import Settings
from server.trace_context import Spans, no_span
from server.webhooks.signing import check_secret, new_secret
from strategies import Strategy, value
from upstream.guard import Guard, Policy
from upstream.guarded_session import open_guarded_session
from upstream.own_addresses import listening
from upstream.simulator.files import has_file

log = logging.getLogger("hedgerow.downloads")

BUCKET = "downloads"
CALLBACKS = 50
"""Webhooks that one process sends at a time; fewer than its guarded session has connections."""
CALLBACKS_PER_CLIENT = 10


@value
class Downloads:
    """
    What is open.

    Attributes:
        service: what the routes stand on.
        store: the job store.
        local: the embedded object store, if that is the one, and what signs its links.
    """

    service: Service
    store: JobStore
    local: tuple[LocalObjects, UrlSigner] | None


@asynccontextmanager
async def open_downloads(
    settings: Settings,
    strategy: Callable[[], Strategy[Any]],
    simulated: bool,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    rng: random.Random,
    metrics: Metrics,
    *,
    listens: Sequence[tuple[str, int]] = (),
    work: bool = True,
    policy: Policy | None = None,
    step: Callable[[str], None] = lambda name: None,
    span: Spans = no_span,
) -> AsyncIterator[Downloads]:
    """
    Open it all. Neither store has to be there for that.

    Args:
        strategy: gives what asks the source of files.
        simulated: whether that is the built-in one.
        clock: seconds since 1970.
        monotonic: the clock of deadlines.
        metrics: what an operator sees of it.
        listens: where we listen: no webhook goes there.
        work: whether to work on jobs here.
        policy: whom webhooks may reach; as settings say if None.
        step: told the name of each step of a job before it is taken; a test may end the process there.
        span: gives work a span.
    """
    data = Path(settings.data_dir)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_job_store(JobStoreConfig(settings.redis_url, data)))
        _make(data)
        records = Records(
            store.redis, clock, keep=settings.download_keep, most_open=settings.download_open_jobs_per_client
        )
        objects, local = await _objects(settings, data, clock, stack)
        guard = Guard(policy or _policy(settings), listening(listens))
        source = Source(strategy, settings.download_step_timeout, monotonic, rng)

        async def fetch(file_id: int, progress: Progress) -> int:
            try:
                return await store_file(objects, source, file_id, progress)
            except NoSuchFile:
                raise Failed("There is no such file.") from None
            except SourceFailed as error:
                raise Failed(error.detail) from None

        async def ended(job: Job) -> None:
            if job.owes:
                await callbacks.put(job.id, job.client)

        worker = Worker(
            records,
            objects,
            fetch,
            ended,
            f"{socket.gethostname()}:{os.getpid()}",
            settings.download_files,
            settings.download_reuse,
            clock,
            rng,
            metrics,
            step,
            span,
        )
        poster = await stack.enter_async_context(open_guarded_session(guard))
        teller = Callbacks(
            records,
            documents.webhook,
            _webhook_secrets(settings, data),
            poster,
            clock,
            rng,
            metrics,
            step,
            span,
        )
        jobs = await _queue(stack, store, JOB, worker.look_at, settings.download_jobs_per_client)
        callbacks = await _queue(stack, store, CALLBACK, teller.look_at, CALLBACKS_PER_CLIENT)
        feed = await stack.enter_async_context(open_feed(store.url, records, rng.random))
        rescue = Rescue(records, jobs, callbacks, objects, clock, rng)
        await stack.enter_async_context(rescue.running())
        if work:
            await stack.enter_async_context(working(jobs, settings.download_jobs))
            await stack.enter_async_context(working(callbacks, CALLBACKS))
        streams = Streams(settings.sse_streams_per_client, settings.sse_streams)
        there = has_file if simulated and local else _nothing
        metrics.watch_streams(lambda: len(streams))
        service = Service(records, jobs, callbacks, feed, objects, there, guard, streams, metrics)
        yield Downloads(service, store, local)


async def _queue(stack: AsyncExitStack, store: JobStore, kind: str, work: Work, most: int) -> Queue:
    return await stack.enter_async_context(open_queue(store.url, kind, work, most))


async def _objects(
    settings: Settings, data: Path, clock: Callable[[], float], stack: AsyncExitStack
) -> tuple[ObjectStore, tuple[LocalObjects, UrlSigner] | None]:
    """S3 if an endpoint or a bucket is given, else the data folder."""
    if settings.s3_endpoint is None and settings.s3_bucket_name is None:
        if settings.redis_url is not None:
            log.warning(
                "jobs are in REDIS_URL, but objects in DATA_DIR: fine for one machine; servers on several "
                "need an S3_BUCKET_NAME"
            )
        if settings.s3_access_key_id is not None or settings.s3_public_endpoint is not None:
            log.warning(
                "settings of S3 are given, but neither S3_ENDPOINT nor S3_BUCKET_NAME: objects go to DATA_DIR"
            )
        signer = UrlSigner(load_secret(data / "link-secret"), clock)
        local = await stack.enter_async_context(
            open_local_objects(data / "objects", signer, clock, base=settings.public_url)
        )
        return local, (local, signer)
    # It takes half a second and 66 MB to load.
    from server.downloads.s3_objects import S3Config, open_s3_objects

    config = S3Config(
        settings.s3_bucket_name or BUCKET,
        settings.s3_region,
        settings.s3_endpoint,
        settings.s3_public_endpoint,
        settings.s3_force_path_style,
        settings.s3_access_key_id,
        settings.s3_secret_access_key,
    )
    return await stack.enter_async_context(open_s3_objects(config, clock)), None


def _make(data: Path) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobStoreError(f"The data folder cannot be used: {error.strerror}.") from error


def _webhook_secrets(settings: Settings, data: Path) -> Sequence[str]:
    """Those that are set, or one that is made once and kept."""
    if settings.webhook_secrets:
        return settings.webhook_secrets
    path = data / "webhook-secret"
    if not path.exists():
        made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")  # a killed one may have left its own
        with open(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write(new_secret())
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(made, path)  # of several processes that make it at once, one wins
        except FileExistsError:
            pass
        finally:
            made.unlink()
    secret = path.read_text("ascii").strip()
    check_secret(secret)
    return (secret,)


def _policy(settings: Settings) -> Policy:
    policy = Policy()
    return replace(policy, http=True, ports=policy.ports | {80, 8080}) if settings.webhook_http else policy


def _nothing(file_id: int) -> bool:
    """A real source of files is not asked for one that might be had."""
    return False
