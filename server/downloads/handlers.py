"""The routes of the download API: each a few lines over the records, the queue, the feed and the objects."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import orjson
from aiohttp import web
from redis.exceptions import RedisError

from server.asking import exchange_for
from server.bodies import read_json, valid, valid_query
from server.clients import Clients
from server.downloads import documents
from server.downloads.engine import Queue
from server.downloads.feed import Feed
from server.downloads.jobs import ENDED, FileState, Job, JobState
from server.downloads.metrics import Metrics
from server.downloads.objects import ObjectStore, StoreError, StoreFull, object_key
from server.downloads.prefer import Prefer, applied, prefer
from server.downloads.records import Created, KeyReused, NewJob, Records, TooManyJobs
from server.downloads.schemas import (
    CheckQuerySchema,
    DownloadQuerySchema,
    FileSchema,
    InitiateSchema,
    JobsQuerySchema,
)
from server.downloads.sse import Streams, stream
from server.errors import Problem, invalid
from server.exchange import EXCHANGE
from server.job_store.opening import JobStoreError, JobStoreFull
from server.trace_context import current_traceparent
from strategies import value
from upstream.callback_url import check_url
from upstream.guard import Denied, Guard

log = logging.getLogger("hedgerow.downloads")

SOON = {"Retry-After": "5"}
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@value
class Service:
    """What the routes stand on, once it is open."""

    records: Records
    jobs: Queue
    callbacks: Queue
    feed: Feed
    objects: ObjectStore
    has_file: Callable[[int], bool]
    guard: Guard
    streams: Streams
    metrics: Metrics


@value
class Limits:
    """
    Attributes:
        wait: seconds for which a request may wait for its job, at most.
        link: seconds for which a link can be used.
    """

    wait: float
    link: float


class DownloadHandlers:
    """
    Args:
        service: gives what the application has opened.
        clients: says whose a request is.
        limits: in seconds.
        clock: seconds since 1970.
        monotonic: the clock of deadlines.
        luck: 0 to 1, at random.
        step: told the name of each step before it is taken; a test may end the process there.
    """

    def __init__(
        self,
        service: Callable[[], Service],
        clients: Clients,
        limits: Limits,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        luck: Callable[[], float],
        step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._service = service
        self._clients = clients
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._luck = luck
        self._step = step

    async def initiate(self, request: web.Request) -> web.Response:
        """A new job; at once, or when it has ended, for as long as the caller prefers to wait."""
        exchange_for(request, "download.initiate")
        given = valid(InitiateSchema, await read_json(request))
        wish = prefer(request.headers.getall("Prefer", []))
        with faults():
            job = (await self._create(request, given["file_ids"], given["callbackUrl"])).job
            if wish.wait:
                await self._service().feed.ended(job, min(wish.wait, self._limits.wait))
                job = await self._latest(job)
        if job.state in ENDED:
            return _json(documents.status(job), 200, self._applied(wish, 200))
        later = {"Location": documents.links(job.id)["status"]} if wish.respond_async else {}
        status = 202 if later else 200
        return _json(documents.accepted(job), status, {**later, **self._applied(wish, status)})

    async def start(self, request: web.Request) -> web.Response:
        """The old blocking call: one file, waited for. The job goes on when the wait is over."""
        exchange = exchange_for(request, "download.start")
        file_id = valid(FileSchema, await read_json(request))["file_id"]
        wish = prefer(request.headers.getall("Prefer", []))
        seconds = self._limits.wait if wish.wait is None else min(wish.wait, self._limits.wait)
        if wish.respond_async and wish.wait is None:
            seconds = 0.0
        with faults():
            job = (await self._create(request, [file_id], None)).job
            left = exchange.arrived + seconds - self._monotonic()
            if left > 0:
                await self._service().feed.ended(job, left)
                job = await self._latest(job)
            if job.state is JobState.EXPIRED:
                self._require_result(job)
            if job.state in ENDED:
                return _json(await self._started(request, job), 200, self._applied(wish, 200))
        where = documents.links(job.id)["status"]
        if wish.respond_async:
            return _json(documents.accepted(job), 202, {"Location": where, **self._applied(wish, 202)})
        raise Problem(
            504,
            "timeout",
            "The file is not there yet. The job goes on; see its status.",
            headers={
                "Location": where,
                "Retry-After": str(documents.retry_after(job, self._clock())),
                **self._applied(wish, 504),
            },
            jobId=job.id,
            jobStatus=job.state.value,
            links=documents.links(job.id),
        )

    async def check(self, request: web.Request) -> web.Response:
        """Whether a file can be had at once."""
        exchange_for(request, "download.check")
        file_id = valid(FileSchema, await read_json(request))["file_id"]
        if valid_query(CheckQuerySchema, request.query)["sentry_test"] == "true":
            raise SentryTest("This is a test of error reporting, asked for by sentry_test.")
        key, service = object_key(file_id), self._service()
        with faults():
            found = await service.objects.head(key)
        available = found is not None or service.has_file(file_id)
        return _json(
            {
                "file_id": file_id,
                "available": available,
                "s3Key": key if available else None,
                "size": found.size if found else None,
            }
        )

    async def status(self, request: web.Request) -> web.Response:
        """The job, as it stands."""
        exchange_for(request, "download.status")
        with faults():
            job = await self._asked(request)
        headers = {"Cache-Control": "no-store"}
        if wait := documents.retry_after(job, self._clock()):
            headers["Retry-After"] = str(wait)
        return _json(documents.status(job), 200, headers)

    async def download(self, request: web.Request) -> web.Response:
        """Links to the files of a job that has completed."""
        exchange_for(request, "download.result")
        redirect = valid_query(DownloadQuerySchema, request.query)["redirect"]
        with faults():
            job = await self._asked(request)
            self._require_result(job)
            urls = {
                file.id: await self._link(request, file.id)
                for file in job.files
                if file.state is FileState.COMPLETED
            }
        if redirect and len(urls) == 1:
            return web.Response(
                status=303, headers={"Location": next(iter(urls.values())), "Cache-Control": "no-store"}
            )
        files = [
            {
                "fileId": file.id,
                "status": file.state.value,
                "downloadUrl": urls.get(file.id),
                "size": file.size,
                "error": file.error,
            }
            for file in job.files
        ]
        until = documents.moment(self._clock() + self._limits.link)
        told = {"jobId": job.id, "status": job.state.value, "files": files, "linksExpireAt": until}
        return _json(told, 200, {"Cache-Control": "no-store"})

    async def subscribe(self, request: web.Request) -> web.StreamResponse:
        """Everything that happens to the job, as it happens."""
        exchange_for(request, "download.subscribe")
        with faults():
            job = await self._asked(request)
        service = self._service()
        return await stream(
            request,
            job,
            service.feed,
            service.streams,
            self._clients.of(request),
            lambda job: orjson.dumps(documents.status(job)),
            self._luck,
        )

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel the job; also while it is worked on, and then the calls that it has under way."""
        exchange_for(request, "download.cancel")
        service = self._service()
        with faults():
            asked = await self._asked(request)
            job = await service.records.cancel(asked.id)
            if job is None:
                raise _unknown()
            if job.state is not JobState.CANCELLED:
                raise Problem(
                    409, f"job_{job.state.value}", "The job has ended already.", jobStatus=job.state.value
                )
            if asked.state not in ENDED:
                service.metrics.ended(job.state, (job.ended or job.created) - job.created)
            await service.jobs.drop(job.id)
            if job.owes:
                await service.callbacks.put(job.id, job.client)
        return _json(documents.status(job))

    async def jobs(self, request: web.Request) -> web.Response:
        """The caller's own jobs, newest first."""
        exchange_for(request, "download.jobs")
        query = valid_query(JobsQuerySchema, request.query)
        states = _states(query["state"])
        with faults():
            try:
                page = await self._service().records.jobs_of(
                    self._clients.of(request), states, query["limit"], query["cursor"]
                )
            except ValueError:
                raise invalid({"cursor": ["Must be `next` of a page before."]}) from None
        return _json({"jobs": [documents.summary(job) for job in page.jobs], "next": page.next})

    async def _create(self, request: web.Request, file_ids: list[int], callback: str | None) -> Created:
        service = self._service()
        files = tuple(dict.fromkeys(file_ids))
        if callback is not None:
            callback = _checked(callback, service.guard)
        new = NewJob(
            id=str(uuid.uuid4()),
            client=self._clients.of(request),
            file_ids=files,
            callback=callback,
            request_id=request[EXCHANGE].id,
            idempotency_key=_idempotency_key(request.headers.getall("Idempotency-Key", [])),
            fingerprint=sha256(orjson.dumps([request.path, files, callback])).hexdigest(),
            traceparent=current_traceparent(),
        )
        self._step("create")
        try:
            created = await service.records.create(new)
        except KeyReused:
            detail = "This Idempotency-Key was used with another body."
            raise Problem(422, "idempotency_key_reused", detail) from None
        except TooManyJobs:
            detail = "You have too many jobs that have not ended."
            raise Problem(429, "too_many_jobs", detail, headers={"Retry-After": "30"}) from None
        if created.fresh:
            service.metrics.created()
        if created.job.state not in ENDED:
            try:
                self._step("put")
                await service.jobs.put(created.job.id, created.job.client, new=created.fresh)
            except JobStoreError as error:
                # It is written down: `Rescue` will queue it. A 503 would make its caller ask for another.
                log.info("job %s is accepted, but not queued yet: %s", created.job.id, error.detail)
        self._step("answer")
        return created

    async def _asked(self, request: web.Request) -> Job:
        """The job that the path names."""
        return await self._known(request.match_info["jobId"])

    async def _known(self, job_id: str) -> Job:
        try:
            canonical = str(uuid.UUID(job_id))
        except ValueError:
            raise _unknown() from None
        job = await self._service().records.view(job_id) if canonical == job_id else None
        if job is None:
            raise _unknown()
        return job

    async def _latest(self, job: Job) -> Job:
        """*job* as it stands, or while the store is away as it stood: its caller has to learn its id."""
        try:
            return await self._known(job.id)
        except JobStoreError:
            return job

    async def _started(self, request: web.Request, job: Job) -> dict[str, Any]:
        [file] = job.files
        done = file.state is FileState.COMPLETED
        took = (job.ended or self._clock()) - job.created
        return {
            "file_id": file.id,
            "status": "completed" if done else "failed",
            "downloadUrl": await self._link(request, file.id) if done else None,
            "size": file.size if done else None,
            "processingTimeMs": max(round(took * 1000), 0),
            "message": "The file is ready." if done else file.error or job.error or "It was cancelled.",
        }

    async def _link(self, request: web.Request, file_id: int) -> str:
        """Where the client of *request* gets the file: if need be, at the address that it has used here."""
        url = await self._service().objects.url(object_key(file_id), self._limits.link, f"{file_id}.zip")
        return f"{request.scheme}://{_host(request)}{url}" if url.startswith("/") else url

    def _applied(self, wish: Prefer, status: int) -> Mapping[str, str]:
        """What was followed of *wish* by an answer of that *status*."""
        wait = None if wish.wait is None else min(wish.wait, self._limits.wait)
        told = applied(respond_async=status == 202, wait=wait)
        return {"Preference-Applied": told} if told else {}

    def _require_result(self, job: Job) -> None:
        told: dict[str, Any] = {"jobStatus": job.state.value, "jobId": job.id}
        if job.state is JobState.EXPIRED:
            raise Problem(410, "job_expired", "The result has expired. Initiate a new job.", **told)
        if job.state not in ENDED:
            headers = {"Retry-After": str(documents.retry_after(job, self._clock()))}
            raise Problem(409, f"job_{job.state.value}", "The job has not ended.", headers=headers, **told)
        if job.state is not JobState.COMPLETED:
            detail = job.error or f"The job was {job.state.value}: there is no result."
            raise Problem(409, f"job_{job.state.value}", detail, **told)


class SentryTest(Exception):
    """What a caller of ``check`` may ask for, to see that errors are reported."""


@contextmanager
def faults() -> Iterator[None]:
    """Faults of the stores, as answers that name them and say when to come again."""
    try:
        yield
    except JobStoreFull as error:
        raise Problem(507, "job_store_full", error.detail, headers=SOON) from error
    except JobStoreError as error:
        raise Problem(503, "job_store_unavailable", error.detail, headers=SOON) from error
    except RedisError as error:
        log.error("the job store does not hold what it should", exc_info=error)
        detail = "The job store cannot be used for that."
        raise Problem(503, "job_store_unavailable", detail, headers=SOON) from error
    except StoreFull as error:
        raise Problem(507, "storage_full", error.detail, headers=SOON) from error
    except StoreError as error:
        raise Problem(503, "storage_unavailable", error.detail, headers=SOON) from error


def _checked(url: str, guard: Guard) -> str:
    try:
        return str(check_url(url, guard))
    except Denied:
        # The same words for all, so that nobody learns from them what a private network has.
        raise invalid({"callbackUrl": ["Must be a public https:// URL."]}) from None


def _idempotency_key(given: list[str]) -> str | None:
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise invalid({"Idempotency-Key": ["Must be 1 to 255 visible ASCII characters."]})
    return given[0]


def _states(text: str) -> frozenset[JobState]:
    try:
        return frozenset(JobState(one.strip()) for one in text.split(",") if one.strip()) or frozenset(
            JobState
        )
    except ValueError:
        raise invalid({"state": [f"Must be of {', '.join(JobState)}, separated by commas."]}) from None


def _host(request: web.Request) -> str:
    """As the client of *request* has named us; without that, where its connection ends, port included."""
    if named := request.headers.get("Host"):
        return named
    reached = request.get_extra_info("sockname")
    if not isinstance(reached, tuple):
        return "localhost"
    address, port = reached[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _unknown() -> Problem:
    return Problem(404, "not_found", "There is no such job.")


def _json(
    told: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=orjson.dumps(told), status=status, content_type="application/json", headers=headers
    )
