"""Ask one; if it is slow or fails, ask the others as well; the first success wins."""

from __future__ import annotations

from strategies.base import Strategy
from strategies.deadline import Deadline
from strategies.fanout import FanOut
from strategies.outcome import Request, Result, Verdict
from strategies.value import value


@value
class HedgedOptions:
    """
    Attributes:
        delay: seconds to wait for the first attempt before the others are fired together. A failure
            fires them at once. 0.3 is the contract of ``/api/smart``.
    """

    delay: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.delay < float("inf"):
            raise ValueError(f"delay must be 0 seconds or more, not {self.delay}")


class HedgedStrategy(Strategy[HedgedOptions]):
    """
    The first target alone, then, after *delay* seconds of silence or at its failure, all the others
    together. The hedge does not cancel the first attempt: any of them may win. With a delay longer than
    any timeout this is failover.
    """

    Options = HedgedOptions

    async def execute(self, request: Request, deadline: Deadline) -> Result:
        primary, *others = request.targets
        with FanOut(self.fetch, request, deadline, self.reaper) as fan:
            fan.start(primary)
            outcome = await fan.next(within=self.options.delay)
            if outcome is not None and outcome.verdict is Verdict.SUCCESS:
                return fan.won(outcome)
            for target in others:
                fan.start(target, hedge=True)
            return await fan.race()
