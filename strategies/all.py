"""Ask everybody and want an end from everybody: scatter-gather."""

from __future__ import annotations

from itertools import islice

from strategies.base import Strategy
from strategies.deadline import Deadline
from strategies.fanout import FanOut
from strategies.outcome import Rejected, Request, Result, Verdict
from strategies.value import value


@value
class AllOptions:
    """
    Attributes:
        concurrency: how many attempts may run at once; 0 means all of them.
        fail_fast: whether the first failure ends it, with the rest cancelled.
    """

    concurrency: int = 0
    fail_fast: bool = False

    def __post_init__(self) -> None:
        if self.concurrency < 0:
            raise ValueError(f"concurrency must be 0 or more, not {self.concurrency}")


class AllStrategy(Strategy[AllOptions]):
    """
    Every target once. Met when all of them ended before the deadline and at least one succeeded (with
    *fail_fast*: when all of them succeeded). The answers come in the order of the targets.
    """

    Options = AllOptions

    async def execute(self, request: Request, deadline: Deadline) -> Result:
        with FanOut(self.fetch, request, deadline, self.reaper) as fan:
            waiting = iter(request.targets)
            for target in islice(waiting, self.options.concurrency or None):
                fan.start(target)
            async for outcome in fan:
                if self.options.fail_fast and outcome.verdict is not Verdict.SUCCESS:
                    if not isinstance(outcome, Rejected):
                        return fan.failed()
                    # Refused: start nothing more, but let the others end. One of them may be the very call
                    # that finds out whether the upstream is well; given up, it would find out nothing, and
                    # the next request would meet the same refusal.
                    waiting = iter(())
                for target in islice(waiting, 1):
                    fan.start(target)
            wanted = len(request.targets) if self.options.fail_fast else 1
            answers = fan.successes
            if fan.expired or len(answers) < wanted:
                return fan.failed()
            return fan.succeeded(answers)
