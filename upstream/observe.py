"""A layer that tells an observer when an attempt starts and what became of it. It changes nothing.

It listens to the future instead of awaiting it: a coroutine around every attempt would cost a task each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from strategies import Attempt, Coming, Fetch, coming, listen

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


def ended_as(done: Coming, attempt: Attempt, now: float) -> str:
    """The reason with which *attempt* ended, as `AttemptObserver.attempt_ended` has it."""
    if done.cancelled():
        return "timeout" if now >= attempt.deadline.at - EARLY else "cancelled"
    return "bug" if done.exception() is not None else done.result().reason


def observe(fetch: Fetch, observer: AttemptObserver, clock: Callable[[], float]) -> Fetch:
    """*fetch*, watched by *observer*, timed by *clock*."""

    def observed(attempt: Attempt) -> Coming:
        started = clock()
        observer.attempt_started(attempt)
        outcome = coming(fetch(attempt))

        def ended(done: Coming) -> None:
            now = clock()
            observer.attempt_ended(attempt, ended_as(done, attempt, now), now - started)

        listen(outcome, ended)
        return outcome

    return observed
