"""What can be wrong with the job store, in the words of those who use it.

It knows the client library's errors and what servers answer. It neither connects nor decides what to do
about a fault. Its sentences go to callers: no host, no path and no password is in them. The cause is chained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions as redis

AWAY = "The job store cannot be reached at the moment."
SLOW = "The job store does not answer at the moment."
BUSY = "All connections to the job store are in use at the moment."
REFUSES = "The job store refuses to work at the moment."
FULL = "The job store has no room left."

NO_ROOM = ("used memory > 'maxmemory'", "No space left", "Errors writing to the AOF file")
"""Parts of what a server answers when its memory or its disk is full."""
REFUSALS = frozenset(
    [
        "READONLY",
        "LOADING",
        "NOAUTH",
        "WRONGPASS",
        "NOPERM",
        "MISCONF",
        "MASTERDOWN",
        "NOREPLICAS",
        "CLUSTERDOWN",
        "BUSY",
        "TRYAGAIN",
    ]
)
"""First words of what a server answers that cannot be used, though the command was right."""
REFUSING = (
    redis.AuthenticationError,
    redis.AuthenticationWrongNumberOfArgsError,
    redis.AuthorizationError,
    redis.BusyLoadingError,
    redis.ClusterDownError,
    redis.NoPermissionError,
    redis.ReadOnlyError,
    redis.TryAgainError,
)
"""The same, where the library has a class for it; it takes the first word off the text then."""


class JobStoreError(Exception):
    """
    The job store cannot be used.

    Attributes:
        detail: one sentence for callers, also its text.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class JobStoreDown(JobStoreError):
    """It is away, hangs, or refuses to work; later it may be well."""


class JobStoreFull(JobStoreError):
    """It has no memory or no disk left. Nothing was written."""


@contextmanager
def job_store_errors() -> Iterator[None]:
    """
    Raise what goes wrong with the store in this block as JobStoreDown or JobStoreFull.

    That is: errors of the connection, every OSError, TimeoutError, and answers by which a server says that it
    cannot be used. All else passes, above all errors of a command itself (WRONGTYPE, NOSCRIPT).
    """
    try:
        yield
    except (redis.RedisError, OSError) as error:
        fault = fault_of(error)
        if fault is None:
            raise
        raise fault from error


def fault_of(error: redis.RedisError | OSError) -> JobStoreError | None:
    """What *error* says about the store; None if it is about a command."""
    if isinstance(error, redis.ConnectionError) and isinstance(error.__cause__, redis.RedisError):
        error = error.__cause__  # what went wrong in a greeting comes wrapped
    if isinstance(error, REFUSING):
        return JobStoreDown(REFUSES)
    if isinstance(error, redis.ResponseError):
        return _refusal(error)
    if isinstance(error, redis.MaxConnectionsError) or isinstance(error.__cause__, TimeoutError):
        return JobStoreDown(BUSY)  # the pool has no type for "all stayed in use for too long"
    if isinstance(error, (redis.TimeoutError, TimeoutError)):
        return JobStoreDown(SLOW)
    if isinstance(error, (redis.ConnectionError, redis.InvalidResponse, OSError)):
        return JobStoreDown(AWAY)
    return None


def _refusal(error: redis.ResponseError) -> JobStoreError | None:
    text = str(error)
    if any(words in text for words in NO_ROOM):
        return JobStoreFull(FULL)
    whole = error.status_code is None  # else the first word was ERR, and has been taken off
    return JobStoreDown(REFUSES) if whole and text.split(" ", 1)[0] in REFUSALS else None
