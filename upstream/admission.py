"""One shape for whatever may say no before a call goes out, as the breaker may.

``admit(now)`` gives a permit or a refusal; the permit is settled once, with the verdict on what it admitted.
IGNORED gives it back and teaches nothing. The layer below is the only place that knows both this shape and
outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from strategies import Attempt, Fetch, Outcome, Rejected, Verdict, value
from upstream.observe import EARLY


@value
class Refusal:
    """
    No. *reason* is one word for metrics and callers, *retry_after* the seconds until asking again may
    help, *detail* the state of whoever refused, in words.
    """

    reason: str
    retry_after: float
    detail: str = ""


class Permit(Protocol):
    """Yes, for one call."""

    def settle(self, verdict: Verdict, now: float) -> None:
        """Tell what became of the call. Only the first telling counts."""


class AdmissionController(Protocol):
    """Whoever decides."""

    def admit(self, now: float) -> Permit | Refusal:
        """May a call go out at *now*?"""


def admission(
    fetch: Fetch,
    controller_of: Callable[[Attempt], AdmissionController],
    clock: Callable[[], float],
    fair_time: float,
) -> Fetch:
    """
    *fetch*, asked for permission first.

    Args:
        controller_of: who decides about an attempt.
        fair_time: seconds that the upstream must have had before being cut at a caller's deadline counts
            as its failure. Less than that is an impatient caller, and says nothing about the upstream.
    """

    async def admitted(attempt: Attempt) -> Outcome:
        started = clock()
        permit = controller_of(attempt).admit(started)
        if isinstance(permit, Refusal):
            return Rejected(attempt, started, started, permit.reason, permit.detail, permit.retry_after)
        verdict = Verdict.IGNORED
        try:
            outcome = await fetch(attempt)
            verdict = outcome.verdict
            return outcome
        except asyncio.CancelledError:
            due = attempt.deadline.at
            if clock() >= due - EARLY and due - started >= fair_time:
                verdict = Verdict.FAILURE
            raise
        finally:
            permit.settle(verdict, clock())

    return admitted
