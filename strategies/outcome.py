"""The words of a fan-out: who is asked, what one attempt became, and what the whole came to.

Faults are values here. An upstream that refuses, resets, stalls or lies gives an `Outcome` like one that
answers; what is raised is a bug or a cancellation. The verdict is computed once, by whoever made the
outcome, and read by everybody else: strategies, breaker, metrics and logs share one idea of failure.
This room knows no status code, no body and no clock.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from strategies.deadline import Deadline
from strategies.value import value


class Verdict(Enum):
    """What an outcome says about the upstream."""

    SUCCESS = "success"
    FAILURE = "failure"
    IGNORED = "ignored"
    """Nothing was learned: the attempt was refused before it ran, or given up before it ended."""


@value
class Target:
    """
    Whom one attempt asks, and what: an upstream by name, and a payload that only its transport reads.
    """

    upstream: str
    payload: object = None


@value
class Request:
    """
    What a strategy is asked to do: the targets, in order of preference, on behalf of one route.
    """

    route: str
    targets: tuple[Target, ...]


@value
class Attempt:
    """
    One call to one target, numbered from 0 within its request.

    *hedge* marks an attempt beyond those that the rule of the route always makes, *optional* one that the
    upstream's budget may refuse: the rule is kept without it.
    """

    request: Request
    target: Target
    number: int
    deadline: Deadline
    hedge: bool = False
    optional: bool = False


@value
class Answered:
    """
    The upstream answered in full; *verdict* says whether with anything of use, *reason* why not.

    *value* is the transport's answer. If it has a ``close`` method it owns something: whoever claims the
    answer calls it, and `FanOut` calls it for answers that nobody claimed. *retry_after* is the pause in
    seconds that the upstream asked for, if it did.
    """

    attempt: Attempt
    started: float
    ended: float
    verdict: Verdict
    value: object
    reason: str = "success"
    detail: str = ""
    retry_after: float | None = None

    def close(self) -> None:
        """Give back what the answer holds, if it holds anything."""
        close = getattr(self.value, "close", None)
        if close is not None:
            close()


@value
class Failed:
    """
    The attempt broke before an answer was complete. *reason* names the phase (``connect_error``,
    ``reset``, …), *detail* says it in words fit for a log and a caller.
    """

    attempt: Attempt
    started: float
    ended: float
    reason: str
    detail: str = ""
    verdict: Verdict = Verdict.FAILURE


class Bound(Enum):
    """Whose limit ran out."""

    DEADLINE = "the caller's deadline"
    TARGET = "the upstream's own limit"


@value
class TimedOut:
    """Time ran out before an answer was complete; *bound* says whose."""

    attempt: Attempt
    started: float
    ended: float
    bound: Bound
    verdict: Verdict = Verdict.FAILURE

    @property
    def reason(self) -> str:
        return "timeout"

    @property
    def detail(self) -> str:
        return f"{self.bound.value} passed"


@value
class Rejected:
    """
    The attempt never ran: something on our side said no. *retry_after* is in seconds, if it is known.
    """

    attempt: Attempt
    started: float
    ended: float
    reason: str = "rejected"
    detail: str = ""
    retry_after: float | None = None
    verdict: Verdict = Verdict.IGNORED


@value
class Cancelled:
    """Nobody needs the attempt any more: another one won, or the caller went away."""

    attempt: Attempt
    started: float
    ended: float
    verdict: Verdict = Verdict.IGNORED

    @property
    def reason(self) -> str:
        return "cancelled"

    @property
    def detail(self) -> str:
        return "no longer needed"


Outcome: TypeAlias = Answered | Failed | TimedOut | Rejected | Cancelled


@value
class Result:
    """
    What a strategy came to.

    *outcomes* has one entry for each attempt that was started, in order. *answers* are the claimed ones,
    for the caller to render (and close). *verdict* says whether the strategy's rule was met. *winner* is
    set when the rule is a race. *expired* says that the deadline came while something was still missing.
    """

    outcomes: tuple[Outcome, ...]
    answers: tuple[Answered, ...]
    verdict: Verdict
    winner: Answered | None = None
    expired: bool = False
