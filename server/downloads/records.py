"""The records of jobs in the store: what was accepted, how far it is, what happened to it.

A record is the truth; the queue only says which one to look at. Each change is one script that writes the
record, adds the event to the job's stream and publishes it, all or nothing, and is acknowledged by its end.
It knows nothing of HTTP, of the queue, or of how files are fetched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from typing import Any

import orjson
from redis.asyncio import Redis

from server.downloads.cursors import NOTHING, Place, event_id, job_id, read_cursor, write_cursor
from server.downloads.documents import moment
from server.downloads.jobs import (
    DONE,
    ENDED,
    Callback,
    Event,
    File,
    FileState,
    Job,
    JobState,
    Summary,
)
from server.downloads.record_scripts import sources
from server.job_store.faults import job_store_errors
from strategies import value

OWING = 7 * 86_400.0
"""Seconds for which the record of a job that still owes something is kept without a sign of life."""
SCAN = 500
"""Entries of an index that one page looks at. More than that without a hit, and the page is short."""
MOST_EVENTS = 1000
"""Events that one page has at most."""

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_CLIENT = re.compile(r"[!-~]{1,128}")


class KeyReused(Exception):
    """The ``Idempotency-Key`` has made a job out of another body."""


class TooManyJobs(Exception):
    """The client has as many jobs that have not ended as it may have."""


class Superseded(Exception):
    """A later run has taken the job up, or it has ended, or is gone: the run must stop."""


@value
class NewJob:
    """
    A job to be made.

    Attributes:
        id: a new UUID.
        client: whose it is, as rate limits name clients: printable ASCII.
        file_ids: at least one; each once.
        callback: where its end is told.
        request_id: of the request that makes it.
        idempotency_key: as the caller gave it; kept as a hash.
        fingerprint: of the body, the same for the same body.
        traceparent: of the trace that it belongs to; empty for none.
    """

    id: str
    client: str
    file_ids: tuple[int, ...]
    callback: str | None
    request_id: str
    idempotency_key: str | None
    fingerprint: str
    traceparent: str = ""


@value
class Created:
    """The job; not *fresh* if the same key had made it before."""

    job: Job
    fresh: bool


@value
class Claim:
    """
    The right to work on a job, until somebody else has it.

    Attributes:
        run: the number that every change has to name.
        deaths: runs of this life of the job that neither ended nor released it.
    """

    job: Job
    run: int
    deaths: int


@value
class EventPage:
    """Events, in order; not *complete* if some before them are no longer known, or may not be."""

    events: tuple[Event, ...]
    complete: bool


@value
class JobPage:
    """Jobs, newest first, and the cursor of those after them; None: there are none. It may be short."""

    jobs: tuple[Summary, ...]
    next: str | None


class Records:
    """
    All jobs. Any number of processes may have one on the same store; Redis Cluster will not do.

    Every call is one round trip, and raises `server.job_store.faults.JobStoreError` if the store cannot be
    used; whether the change was made is not known then, and to ask for it again does no harm. What is no id
    of a job raises ValueError.

    Args:
        redis: answers in bytes.
        clock: seconds since 1970. If it jumps, times that are shown do, and what expires; nothing else.
        keep: seconds for which the result of a job can be had after its end.
        remember: seconds after that for which the job is known.
        most_open: jobs of one client that have not ended.
        prefix: what its keys begin with. They are ``prefix:record:…``, ``:client:…``, ``:idempotency:…``,
            ``:jobs``, ``:open``; its channels are ``prefix:events:<job>``.
    """

    def __init__(
        self,
        redis: Redis,
        clock: Callable[[], float],
        *,
        keep: float = 86_400.0,
        remember: float = 7 * 86_400.0,
        most_open: int = 100,
        prefix: str = "hedgerow",
    ) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ValueError(f"{prefix!r} is no prefix for keys")
        self._clock = clock
        self._keep = keep
        self._most_open = most_open
        self._prefix = prefix
        self._once_ended = max(math.ceil(keep + remember), 1)
        self._while_open = math.ceil(max(keep + remember, OWING))
        self._scripts: dict[str, Callable[..., Awaitable[Any]]] = {
            name: redis.register_script(source) for name, source in sources().items()
        }

    async def create(self, new: NewJob) -> Created:
        """
        Accept a job: it is queued, with its first event. 100 at once with one key make one job.

        Raises:
            KeyReused: the key has made a job out of another body.
            TooManyJobs: the client has its fill.
            ValueError: *new* is no job.
        """
        if not new.file_ids or len(set(new.file_ids)) < len(new.file_ids):
            raise ValueError("a job has files, each of them once")
        key = "" if new.idempotency_key is None else sha256(new.idempotency_key.encode()).hexdigest()
        became, *rest = await self._run(
            "create",
            new.id,
            _client(new.client),
            key,
            new.fingerprint,
            self._most_open,
            ",".join(map(str, new.file_ids)),
            len(new.file_ids),
            new.callback or "",
            new.request_id,
            new.traceparent,
        )
        if became == b"reused":
            raise KeyReused
        if became == b"full":
            raise TooManyJobs
        job = _job(rest[0])
        return Created(job, job.id == new.id)

    async def view(self, job_id: str) -> Job | None:
        """The job as it stands; None: there is none of that id, or no longer."""
        return _job_or_none(await self._run("view", job_id))

    async def claim(self, job_id: str, owner: str) -> Claim | None:
        """
        Begin a run of the job for *owner*, which ends the right of any run before; None: there is nothing to
        do, for the job is unknown or has ended. Files that a former run left in the middle are queued again.
        """
        reply = await self._run("claim", job_id, owner)
        if reply is None:
            return None
        job = _job(reply[1])
        return Claim(job, job.run, int(reply[0]))

    async def update(self, job_id: str, run: int, file: File) -> str:
        """
        Write down that *file* goes on, or has ended; returns the id of the job's latest event.

        Within a run the percentage only grows; what has ended stays as it is, and then, or if nothing has
        changed, there is no event. Costs the same for any number of files.

        Raises:
            Superseded: *run* must stop; nothing was changed.
            ValueError: the job has no such file, or *file* is neither running nor ended.
        """
        if file.state is FileState.QUEUED or not 0 <= file.percent <= 100:
            raise ValueError(f"{file} is nothing to write down")
        facts = (
            file.state.value,
            file.percent,
            file.attempts,
            orjson.dumps(file.size),
            orjson.dumps(file.error),
        )
        event = _allowed(await self._run("update", job_id, run, file.id, *facts), "the job has no such file")
        return event.decode()

    async def renew(self, job_id: str, run: int) -> None:
        """Give a sign of life. Raises Superseded."""
        _allowed(await self._run("renew", job_id, run))

    async def finish(self, job_id: str, run: int, state: JobState, error: str | None) -> Job:
        """
        End the job, `COMPLETED` or `FAILED`; files of a failed one that have not ended have failed with it.

        Raises:
            Superseded: *run* must stop; nothing was changed.
            ValueError: another *state*, or not all files of a completed job have ended.
        """
        if state not in (JobState.COMPLETED, JobState.FAILED):
            raise ValueError(f"no run ends a job as {state}")
        expires = repr(self._clock() + self._keep)
        reply = await self._run("finish", job_id, run, state.value, error or "", expires)
        return _job(_allowed(reply, "not all files of the job have ended"))

    async def release(self, job_id: str, run: int) -> None:
        """End the run and not the job: another will go on, and this one did not die. Else nothing to do."""
        await self._run("release", job_id, run)

    async def cancel(self, job_id: str) -> Job | None:
        """End the job, whatever it is doing; one that has ended stays as it is. None: there is none."""
        return _job_or_none(await self._run("cancel", job_id, repr(self._clock() + self._keep)))

    async def revive(self, job_id: str) -> Job | None:
        """
        Queue a failed or cancelled job again, with those of its files that are not completed; its callback is
        owed anew. Any other stays as it is. None: there is none.
        """
        return _job_or_none(await self._run("revive", job_id))

    async def owe(self, job_id: str) -> Job | None:
        """
        The callback of a job that has ended is owed anew, whatever became of it; its message stays the same.
        Any other job stays as it is. None: there is none.
        """
        return _job_or_none(await self._run("owe", job_id))

    async def events(self, job_id: str, after: str = NOTHING, count: int = MOST_EVENTS // 2) -> EventPage:
        """
        Up to *count* events after the one with the id *after*; ``0-0``: from the first. Not complete also
        when *after* is not, or no longer, the id of an event of the job.

        Raises:
            ValueError: *after* is no id of an event.
        """
        reply = await self._run("events", job_id, event_id(after), min(count, MOST_EVENTS))
        complete, *lines = reply.split(b"\n")
        ids, kinds, data = lines[::3], lines[1::3], lines[2::3]
        events = (Event(i.decode(), k.decode(), d) for i, k, d in zip(ids, kinds, data, strict=True))
        return EventPage(tuple(events), complete == b"complete")

    async def jobs_of(
        self, client: str, states: frozenset[JobState], limit: int, cursor: str | None
    ) -> JobPage:
        """
        Up to *limit* jobs of *client* that are in one of *states*, after *cursor* (`JobPage.next`). A page
        looks at 500 jobs at most. Raises ValueError if *cursor* is none.
        """
        return await self._page(_client(client), states, limit, cursor)

    async def all_jobs(self, states: frozenset[JobState], limit: int, cursor: str | None) -> JobPage:
        """The same of all clients."""
        return await self._page("", states, limit, cursor)

    async def stale(self, before: float, limit: int) -> tuple[str, ...]:
        """
        Ids of up to *limit* jobs that owe something (their end, or their callback) and gave no sign of life
        since *before*, in seconds since 1970; those first that have been silent for longest. Being told
        counts as a sign of life: the next one to ask, here or elsewhere, is told of others.
        """
        return tuple(found.decode() for found in await self._run("stale", None, repr(before), limit))

    async def settle(self, job_id: str, end: str, outcome: str, attempts: int) -> bool:
        """
        The callback is done with: ``delivered``, ``disabled`` or ``given_up``, by the last of so many
        attempts to tell of the job's *end*, the id of that event. False, and nothing is written, if the job,
        or its callback, was taken up anew since that attempt began.
        """
        return await self._run("settle", job_id, event_id(end), outcome, attempts) is not None

    async def attempted(self, job_id: str, end: str, attempts: int, detail: str) -> bool:
        """The last of so many attempts failed; the rest as with `settle`. False also if it is not owed."""
        return await self._run("attempted", job_id, event_id(end), attempts, detail) is not None

    async def _page(
        self, client: str, states: frozenset[JobState], limit: int, cursor: str | None
    ) -> JobPage:
        place = Place("0", "") if cursor is None else read_cursor(cursor)
        wanted = " ".join(("", *states, ""))
        facts = (client, wanted, limit, SCAN, place.score, place.job_id)
        found, score, last = await self._run("page", None, *facts)
        following = write_cursor(Place(score.decode(), last.decode())) if last else None
        return JobPage(tuple(_summary(one) for one in orjson.loads(found)), following)

    async def _run(self, script: str, of: str | None, *args: str | bytes | int) -> Any:
        """What *script* replies for that job, as of now."""
        now = self._clock()
        job = "" if of is None else job_id(of)
        head = (self._prefix, job, repr(now), moment(now) or "", self._while_open, self._once_ended)
        with job_store_errors():
            return await self._scripts[script](args=(*head, *args))


def _client(text: str) -> str:
    """*text*, if it may be part of a key."""
    if not _CLIENT.fullmatch(text):
        raise ValueError("not the name of a client")
    return text


def _allowed(reply: bytes | None, wrong: str = "") -> bytes:
    """What a script that only the latest run may use has replied; with nothing it says what is *wrong*."""
    if reply is None:
        raise Superseded
    if not reply:
        raise ValueError(wrong)
    return reply


def _job_or_none(reply: bytes | None) -> Job | None:
    return None if reply is None else _job(reply)


def _job(reply: bytes) -> Job:
    told = orjson.loads(reply)
    job, rows = told["job"], told["files"]
    state, run, error = JobState(job["state"]), int(job["run"]), job["error"] or None
    return Job(
        id=job["id"],
        client=job["client"],
        state=state,
        files=tuple(_file(file_id, rows.get(str(file_id)), state, run, error) for file_id in told["order"]),
        created=float(job["created"]),
        started=_seconds(job["started"]),
        ended=_seconds(job["ended"]),
        expires=_seconds(job["expires"]),
        run=run,
        error=error,
        last_event=job["last_event"],
        callback=_callback(job),
        request_id=job["request_id"],
        traceparent=job.get("traceparent") or "",  # of a former version there is none
    )


def _file(file_id: int, row: list[Any] | None, job: JobState, run: int, error: str | None) -> File:
    """A file from its row, which is made when it is begun, and not touched when its job or a run ends."""
    row_run, state, percent, attempts, size, why = row or _UNTOUCHED
    file = File(file_id, _FILE_STATES[state], percent, size, attempts, why)
    if file.state in DONE:
        return file
    if row_run != run:
        file = File(file_id, attempts=attempts)
    if job is JobState.CANCELLED:
        return replace(file, state=FileState.CANCELLED)
    if job is JobState.FAILED:
        return replace(file, state=FileState.FAILED, error=error)
    return file


def _summary(job: Mapping[str, Any]) -> Summary:
    state, total = JobState(job["state"]), int(job["total"])
    completed, failed, cancelled = int(job["completed"]), int(job["failed"]), int(job["cancelled"])
    done = 100 * (completed + failed + cancelled) + int(job["partial"])
    return Summary(
        id=job["id"],
        client=job["client"],
        state=state,
        created=float(job["created"]),
        started=_seconds(job["started"]),
        ended=_seconds(job["ended"]),
        expires=_seconds(job["expires"]),
        run=int(job["run"]),
        error=job["error"] or None,
        last_event=job["last_event"],
        callback=_callback(job),
        request_id=job["request_id"],
        percent=100 if state in ENDED else done // total,
        total=total,
        completed=completed,
        failed=failed,
    )


def _callback(job: Mapping[str, str]) -> Callback | None:
    if not job["callback"]:
        return None
    attempts, detail = int(job["callback_attempts"]), job["callback_detail"] or None
    return Callback(job["callback"], job["callback_state"], attempts, detail)


def _seconds(text: str) -> float | None:
    return float(text) if text else None


_UNTOUCHED = (0, FileState.QUEUED.value, 0, 0, None, None)
_FILE_STATES = {state.value: state for state in FileState}
