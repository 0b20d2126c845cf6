"""Ask one; ask another only when the silence has become rare for that upstream, and when it can still help.

The delay is a live quantile of the upstream's own latency (`strategies.delay`), shortened when the deadline
is near. What the extra attempts may cost is not decided here: they are *optional*, and the upstream's budget
refuses them when there are too many (``upstream/spare.py``). A refusal does not end the race.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

from strategies.base import Fetch, Strategy
from strategies.deadline import Deadline
from strategies.delay import LatencyModel
from strategies.fanout import FanOut
from strategies.outcome import (
    Answered,
    Cancelled,
    Outcome,
    Rejected,
    Request,
    Result,
    Target,
    TimedOut,
    Verdict,
)
from strategies.reaper import Reaper
from strategies.value import value

ENOUGH = 0.5
"""The first hedge goes out early enough to have at least this chance to answer before the deadline."""
SLIM = 0.05
"""With less than this chance to answer before the deadline, no hedge goes out at all."""
PATIENCE = 5
"""How many times the delay each further hedge waits. Two silent attempts may be an upstream that is slow as a
whole; and on the published shape a second hedge after one more delay costs 0.4 % more calls, which bring more
at p99 when they are spent on the first."""
FEW = 3
"""So many silent requests at once say nothing about the upstream as a whole."""


@value
class AdaptiveOptions:
    """
    Attributes:
        quantile: the share of the upstream's answers to wait for before the first hedge. About the rest,
            8.9 %, of the requests are hedged.
        fallback: seconds to wait instead while the first 30 answers are not yet known.
        floor: seconds to wait at the least.
        hedges: extra attempts per request, at most, those after a failure included.
    """

    quantile: float = 0.911
    fallback: float = 0.3
    floor: float = 0.001
    hedges: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ValueError(f"quantile must be between 0 and 1, not {self.quantile}")
        if not 0 <= self.floor <= self.fallback < float("inf"):
            raise ValueError(
                f"floor must be from 0 to fallback, in seconds, not {self.floor} and {self.fallback}"
            )
        if self.hedges < 0:
            raise ValueError(f"hedges must be 0 or more, not {self.hedges}")


class UpstreamView:
    """
    What is known of one upstream.

    Attributes:
        latency: how long its good answers take.
        overdue: requests that have been silent for longer than their delay, now.
        answered: when the latest attempt that succeeded had been started.
    """

    __slots__ = ("answered", "latency", "overdue")

    def __init__(self) -> None:
        self.latency = LatencyModel()
        self.overdue = 0
        self.answered = -float("inf")

    def is_slow_as_a_whole(self, since: float) -> bool:
        """
        Whether many are silent, and nothing that was asked at *since* or later has been answered.

        An attempt that others have overtaken had bad luck, and another one will have better. When none is
        overtaken, as in a stall or behind a queue, one more only makes the queue longer.
        """
        return self.overdue > FEW and self.answered < since

    def learn(self, outcome: Outcome) -> None:
        """Successes took as long as they took; those given up, at least as long as they were waited for."""
        seconds = outcome.ended - outcome.started
        if isinstance(outcome, Answered) and outcome.verdict is Verdict.SUCCESS:
            self.latency.observe(seconds, finished=True)
            self.answered = max(self.answered, outcome.started)
        elif isinstance(outcome, Cancelled | TimedOut):
            self.latency.observe(seconds, finished=False)


class AdaptiveStrategy(Strategy[AdaptiveOptions]):
    """
    The first target alone; after a silence that is rare for its upstream, or at its failure, the next one,
    and so on, one at a time. The first success wins. An upstream that refused, or asked for a pause, gets no
    more attempts from this request; one that is slow as a whole gets none for silence.
    """

    Options = AdaptiveOptions

    def __init__(self, fetch: Fetch, reaper: Reaper, options: AdaptiveOptions) -> None:
        super().__init__(fetch, reaper, options)
        self.upstreams: defaultdict[str, UpstreamView] = defaultdict(UpstreamView)

    async def execute(self, request: Request, deadline: Deadline) -> Result:
        with FanOut(self.fetch, request, deadline, self.reaper) as fan:
            race = _Race(self, fan, request, deadline)
            try:
                result = await race.run()
            except asyncio.CancelledError:
                self._learn(fan.failed())  # the caller left because it was slow, perhaps: that counts too
                raise
            finally:
                race.end()
        self._learn(result)
        return result

    def _learn(self, result: Result) -> None:
        for outcome in result.outcomes:
            self.upstreams[outcome.attempt.target.upstream].learn(outcome)


class _Race:
    """One request: who has been asked, and who may still be."""

    __slots__ = (
        "_deadline",
        "_fan",
        "_first",
        "_hedged",
        "_hedges",
        "_loop",
        "_options",
        "_overdue",
        "_paused",
        "_started",
        "_targets",
        "_upstreams",
        "_youngest",
    )

    def __init__(self, strategy: AdaptiveStrategy, fan: FanOut, request: Request, deadline: Deadline) -> None:
        self._upstreams = strategy.upstreams
        self._options = strategy.options
        self._fan = fan
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        first, *self._targets = request.targets
        self._first = self._youngest = strategy.upstreams[first.upstream]
        self._started = self._loop.time()
        self._hedges = self._options.hedges
        self._hedged = False
        self._overdue = False
        self._paused: set[str] = set()
        fan.start(first)

    async def run(self) -> Result:
        while True:
            within = self._delay()
            outcome = await self._fan.next(within)
            if outcome is None:
                if within is None or self._fan.expired:
                    return self._fan.failed()
                self._silent()
            elif outcome.verdict is Verdict.SUCCESS:
                return self._fan.won(outcome)
            else:
                self._failed(outcome)

    def end(self) -> None:
        self._first.overdue -= self._overdue

    def _delay(self) -> float | None:
        """Seconds of silence until the next hedge; None for no hedge."""
        target = self._next()
        if target is None:
            return None
        usual = self._youngest.latency.quantile(self._options.quantile)
        wait = self._options.fallback if usual is None else usual
        remaining = self._remaining()
        if self._hedged:
            wait *= PATIENCE
        else:
            wait = min(wait, remaining - (self._upstreams[target.upstream].latency.quantile(ENOUGH) or 0.0))
        wait = max(self._options.floor, wait)
        return wait if self._may_answer(target, remaining - wait) else None

    def _silent(self) -> None:
        """The delay has passed without a word."""
        if not self._overdue:
            self._overdue = True
            self._first.overdue += 1
        if self._youngest.is_slow_as_a_whole(self._started):
            self._hedges = 0
        else:
            self._hedge()

    def _failed(self, outcome: Outcome) -> None:
        """No success. Who said no, or asked for a pause, is left alone; another one is asked at once."""
        refused = isinstance(outcome, Rejected)
        if refused or (isinstance(outcome, Answered) and outcome.retry_after is not None):
            self._paused.add(outcome.attempt.target.upstream)
        if refused and outcome.attempt.optional:
            self._hedges += 1  # it never ran
        self._hedge()

    def _hedge(self) -> None:
        target = self._next()
        if target is None or not self._may_answer(target, self._remaining()):
            return
        self._targets.remove(target)
        self._hedges -= 1
        self._hedged = True
        self._youngest, self._started = self._upstreams[target.upstream], self._loop.time()
        self._fan.start(target, hedge=True, optional=True)

    def _next(self) -> Target | None:
        """Whom the next hedge would ask, if there may be one."""
        if not self._hedges:
            return None
        return next((one for one in self._targets if one.upstream not in self._paused), None)

    def _may_answer(self, target: Target, within: float) -> bool:
        return self._upstreams[target.upstream].latency.chance(within) >= SLIM

    def _remaining(self) -> float:
        return self._deadline.remaining(self._loop.time())
