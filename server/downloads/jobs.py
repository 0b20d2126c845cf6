"""What a job is: its states and those of its files, as plain values. It knows no store, no queue, no HTTP."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum

from strategies import value


class JobState(StrEnum):
    """``queued → running → completed | failed | cancelled``; a completed one is ``expired`` in the end."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ENDED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})
"""The states that a job does not leave by itself. `EXPIRED` is not stored: it is `COMPLETED`, read late."""


class FileState(StrEnum):
    """The same for one file of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@value
class File:
    """
    One file of a job, as it stands.

    Attributes:
        percent: of the file that has been fetched and stored, 0 to 100.
        size: in bytes; None while it is not known.
        attempts: times that its processing was begun.
        error: one sentence for people; None if nothing went wrong.
    """

    id: int
    state: FileState = FileState.QUEUED
    percent: int = 0
    size: int | None = None
    attempts: int = 0
    error: str | None = None


@value
class Callback:
    """
    Where the end of a job is told, and how far that is.

    Attributes:
        url: a secret of the caller's, kept out of logs.
        state: ``pending``, ``delivered``, ``disabled`` or ``given_up``.
        attempts: that were made for this end.
        detail: of the last attempt that failed, for people; None if there is none.
    """

    url: str = field(repr=False)
    state: str = "pending"
    attempts: int = 0
    detail: str | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more will be sent."""
        return self.state != "pending"


@value
class Job:
    """
    A job, as it stands. Times are seconds since 1970.

    Attributes:
        id: a UUID, random; whoever knows it may see, follow and cancel the job.
        client: whose it is, as rate limits name clients.
        run: how often a worker has taken it up; each take-up is one run, and only the latest may write.
        ended: when it came to its end; None before that.
        expires: when its result is no longer to be had; None before the end.
        error: one sentence that says why it failed.
        last_event: the id of its latest event.
        callback: where its end is told; None: nowhere.
        request_id: of the request that made it.
        traceparent: of the trace that it belongs to; empty if it was not traced.
    """

    id: str
    client: str
    state: JobState
    files: tuple[File, ...]
    created: float
    started: float | None = None
    ended: float | None = None
    expires: float | None = None
    run: int = 0
    error: str | None = None
    last_event: str = "0-0"
    callback: Callback | None = None
    request_id: str = ""
    traceparent: str = ""

    @property
    def owes(self) -> bool:
        """Whether it has ended, and its callback is still to be told so."""
        return self.state in ENDED and self.callback is not None and not self.callback.settled

    @property
    def percent(self) -> int:
        """A job's progress is its files': those that ended, however, count as done."""
        done = sum(100 if one.state in DONE else one.percent for one in self.files)
        return done // len(self.files)

    @property
    def total(self) -> int:
        """How many files it has."""
        return len(self.files)

    @property
    def completed(self) -> int:
        """How many of them are there."""
        return sum(one.state is FileState.COMPLETED for one in self.files)

    @property
    def failed(self) -> int:
        """How many of them cannot be had."""
        return sum(one.state is FileState.FAILED for one in self.files)


@value
class Summary:
    """
    A job without its files: the same names as `Job` has, and counts in their place. A list of jobs is made of
    these, so that it costs the same however many files they have.
    """

    id: str
    client: str
    state: JobState
    created: float
    started: float | None
    ended: float | None
    expires: float | None
    run: int
    error: str | None
    last_event: str
    callback: Callback | None
    request_id: str
    percent: int
    total: int
    completed: int
    failed: int


DONE = frozenset({FileState.COMPLETED, FileState.FAILED, FileState.CANCELLED})


@value
class Event:
    """
    Something that happened to a job.

    Attributes:
        id: as Redis Streams make them, ``milliseconds-sequence``; grows within a job. The same in polling,
            server-sent events and webhooks.
        kind: ``queued``, ``running``, ``progress``, ``file``, ``completed``, ``failed`` or ``cancelled``.
        data: a JSON object, as callers see it.
    """

    id: str
    kind: str
    data: bytes
