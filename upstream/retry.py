"""A layer that repeats a call once when it got no answer at all, if it is safe, in time, and in the budget.

It stands outermost: each try is observed, admitted and bounded like any attempt. Only network failures are
repeated: an answer, even a bad one, is the upstream's word, and a timeout has used up the time.
"""

from __future__ import annotations

from collections.abc import Callable

from strategies import Attempt, Budget, Failed, Fetch, Outcome
from upstream.call import Call

REPEATABLE = frozenset({"connect_error", "dns_error", "reset"})
"""Reasons worth a second try. A certificate will not be better in a millisecond, nor a body smaller."""


def retry(
    fetch: Fetch, budget: Budget, clock: Callable[[], float], retried: Callable[[Attempt], None]
) -> Fetch:
    """
    *fetch*, tried again at most once. A method that changes something (not GET or HEAD) never is.

    A second try draws on the *budget*; what fills it is `upstream.spare`, around this layer.
    """

    async def trying(attempt: Attempt) -> Outcome:
        outcome = await fetch(attempt)
        if (
            isinstance(outcome, Failed)
            and outcome.reason in REPEATABLE
            and _is_safe(attempt)
            and not attempt.deadline.expired(clock())
            and budget.withdraw()
        ):
            retried(attempt)
            return await fetch(attempt)
        return outcome

    return trying


def _is_safe(attempt: Attempt) -> bool:
    call = attempt.target.payload
    return not isinstance(call, Call) or call.method in ("GET", "HEAD")
