"""A layer that keeps extra attempts within what the ordinary ones pay for, and holds them back in hard times.

Extra attempts are useful while few need them. When the upstream is slow as a whole, every request wants one,
and without a bound that is what keeps the upstream slow (`strategies.budget`). And while we turn callers away
ourselves, nobody gets two attempts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from strategies import Attempt, Budget, Fetch, Outcome, Rejected


def spare(fetch: Fetch, budget: Budget, calm: Callable[[], bool], clock: Callable[[], float]) -> Fetch:
    """
    *fetch*, but an optional attempt is refused unless it is *calm* and the *budget* has a token for it.

    Ordinary attempts pay in. A hedge that is not optional does neither: its route's rule demands it, and it
    is no sign of traffic.
    """

    def sparing(attempt: Attempt) -> Awaitable[Outcome]:
        if attempt.optional:
            if not calm():
                return _refused(attempt, "shedding", "no extra attempts while requests are turned away")
            if not budget.withdraw():
                return _refused(attempt, "over_budget", "the budget for extra attempts is spent")
        elif not attempt.hedge:
            budget.deposit()
        return fetch(attempt)

    async def _refused(attempt: Attempt, reason: str, detail: str) -> Outcome:
        now = clock()
        return Rejected(attempt, now, now, reason, detail)

    return sparing
