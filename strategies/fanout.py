"""The hygiene of asking several upstreams at once, so that a strategy is left with its story.

A `FanOut` starts attempts, hands back their outcomes as they come, and stops waiting at the deadline. On
leaving its ``with`` block it closes answers that nobody claimed and hands what still runs to the reaper,
without waiting: answer first, tidy up after. It decides nothing: which attempts, when, and which outcome
wins is the strategy's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

from strategies.base import Fetch
from strategies.deadline import Deadline
from strategies.outcome import (
    Answered,
    Attempt,
    Bound,
    Cancelled,
    Outcome,
    Rejected,
    Request,
    Result,
    Target,
    TimedOut,
    Verdict,
)
from strategies.pending import Coming, coming, listen, unlisten
from strategies.reaper import Reaper


class FanOut:
    """
    The attempts of one request. Use it as a context manager and iterate over it for outcomes::

        with FanOut(fetch, request, deadline, reaper) as fan:
            for target in request.targets:
                fan.start(target)
            async for outcome in fan:  # ends when none is left, or at the deadline
                if good_enough(outcome):
                    return fan.won(outcome)
            return fan.failed()
    """

    __slots__ = (
        "_attempts",
        "_bug",
        "_claimed",
        "_deadline",
        "_fetch",
        "_loop",
        "_outcomes",
        "_ready",
        "_reaper",
        "_request",
        "_running",
        "_timer",
        "_waiter",
        "expired",
    )

    def __init__(self, fetch: Fetch, request: Request, deadline: Deadline, reaper: Reaper) -> None:
        self._fetch = fetch
        self._request = request
        self._deadline = deadline
        self._reaper = reaper
        self._loop = asyncio.get_running_loop()
        self._attempts: list[tuple[Attempt, float]] = []
        self._outcomes: list[Outcome | None] = []  # by the number of the attempt
        self._running: dict[Coming, int] = {}
        self._ready: deque[Outcome] = deque()
        self._claimed: tuple[Answered, ...] = ()
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._bug: BaseException | None = None
        self.expired = False
        """Whether the deadline came while something was still wanted."""

    def start(self, target: Target, *, hedge: bool = False, optional: bool = False) -> None:
        """
        Start an attempt at *target*; with no time left, start nothing.

        A *hedge* is refused, as a `Rejected` outcome, while the reaper is full of earlier losers. One that is
        *optional* may be refused by the upstream's budget as well.
        """
        now = self._loop.time()
        if self.expired or now >= self._deadline.at:
            self.expired = True
            return
        number = len(self._attempts)
        attempt = Attempt(self._request, target, number, self._deadline, hedge, optional)
        self._attempts.append((attempt, now))
        self._outcomes.append(None)
        if hedge and not self._reaper.allows_hedge():
            self._settle(Rejected(attempt, now, now, "reaper_full", "too many losers are still winding down"))
            return
        outcome = coming(self._fetch(attempt))
        self._running[outcome] = number
        listen(outcome, self._ended)

    async def next(self, within: float | None = None) -> Outcome | None:
        """
        The next outcome, or None: nothing runs, *within* seconds went by, or the deadline came.

        Raises:
            BaseException: whatever an attempt raised; faults are outcomes, so it is a bug.
        """
        if not self._ready and self._running and not self.expired:
            await self._wait(within)
        if self._bug is not None:
            raise self._bug
        return self._ready.popleft() if self._ready else None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Outcome:
        outcome = await self.next()
        if outcome is None:
            raise StopAsyncIteration
        return outcome

    async def race(self) -> Result:
        """Wait for the next success, which wins; without one until all have ended or the deadline, fail."""
        async for outcome in self:
            if outcome.verdict is Verdict.SUCCESS:
                return self.won(outcome)
        return self.failed()

    @property
    def successes(self) -> tuple[Answered, ...]:
        """The successful answers so far, in the order of their attempts."""
        return tuple(
            outcome
            for outcome in self._outcomes
            if isinstance(outcome, Answered) and outcome.verdict is Verdict.SUCCESS
        )

    def won(self, outcome: Outcome) -> Result:
        """The result of a race that *outcome* has won."""
        assert isinstance(outcome, Answered), "only an answer can win"
        return self._result(Verdict.SUCCESS, (outcome,), outcome)

    def succeeded(self, answers: tuple[Answered, ...]) -> Result:
        """The result of a gathering: the rule was met with these *answers*, perhaps none."""
        return self._result(Verdict.SUCCESS, answers, None)

    def failed(self) -> Result:
        """The result when the rule was not met."""
        return self._result(Verdict.FAILURE, (), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._running:
            now = self._loop.time()
            for loser in self._running:
                unlisten(loser, self._ended)
                self._reaper.take(loser, now)
        if len(self._attempts) > len(self._claimed) or error is not None:
            claimed = self._claimed if error is None else ()
            for outcome in self._outcomes:
                if isinstance(outcome, Answered) and not any(outcome is one for one in claimed):
                    outcome.close()

    async def _wait(self, within: float | None) -> None:
        """Sleep until something has ended, *within* seconds went by, or the deadline came."""
        loop, at = self._loop, self._deadline.at
        waiter = self._waiter = loop.create_future()
        until = at if within is None else loop.time() + within
        sooner: asyncio.TimerHandle | None = None
        if until < at:
            sooner = loop.call_at(until, self._wake)
        elif self._timer is None:  # once for all waits: a timer takes 2.5 µs to set and to cancel
            self._timer = loop.call_at(at, self._expire)
        try:
            await waiter
        finally:
            self._waiter = None
            if sooner is not None:
                sooner.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _expire(self) -> None:
        # uvloop may fire a timer up to 1.4 ms early, so the timer is believed, not the clock. An attempt
        # that ended in this very turn of the loop was in time.
        self.expired = bool(self._running)
        self._wake()

    def _ended(self, future: Coming) -> None:
        number = self._running.pop(future)
        if future.cancelled():
            attempt, started = self._attempts[number]
            self._settle(Cancelled(attempt, started, self._loop.time()))
        elif error := future.exception():
            self._bug = error
        else:
            self._settle(future.result())
        self._wake()

    def _settle(self, outcome: Outcome) -> None:
        self._outcomes[outcome.attempt.number] = outcome
        self._ready.append(outcome)

    def _result(self, verdict: Verdict, answers: tuple[Answered, ...], winner: Answered | None) -> Result:
        self._claimed = answers
        outcomes = [
            outcome or self._unfinished(attempt, started)
            for outcome, (attempt, started) in zip(self._outcomes, self._attempts, strict=True)
        ]
        return Result(tuple(outcomes), answers, verdict, winner, self.expired)

    def _unfinished(self, attempt: Attempt, started: float) -> Outcome:
        now = self._loop.time()
        if self.expired:
            return TimedOut(attempt, started, now, Bound.DEADLINE)
        return Cancelled(attempt, started, now)
