"""A layer that tells an observer when an attempt starts and what became of it. It changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from strategies import Attempt, Fetch, Outcome

EARLY = 0.002
"""Seconds that a timer of uvloop may fire early (1.4 ms measured): what is cancelled then was out of time."""


class AttemptObserver(Protocol):
    """Whoever watches attempts: metrics, a log, a test."""

    def attempt_started(self, attempt: Attempt) -> None:
        """The attempt is about to go out."""

    def attempt_ended(self, attempt: Attempt, reason: str, seconds: float) -> None:
        """
        The attempt ended after *seconds*. *reason* is its outcome's, or, for one that was cut off,
        ``timeout`` (at the caller's deadline) or ``cancelled``, or ``bug``.
        """


def observe(fetch: Fetch, observer: AttemptObserver, clock: Callable[[], float]) -> Fetch:
    """*fetch*, watched by *observer*, timed by *clock*."""

    async def observed(attempt: Attempt) -> Outcome:
        started = clock()
        reason = "bug"
        observer.attempt_started(attempt)
        try:
            outcome = await fetch(attempt)
            reason = outcome.reason
            return outcome
        except asyncio.CancelledError:
            reason = "timeout" if clock() >= attempt.deadline.at - EARLY else "cancelled"
            raise
        finally:
            observer.attempt_ended(attempt, reason, clock() - started)

    return observed
