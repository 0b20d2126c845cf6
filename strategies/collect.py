"""Ask everybody and keep what succeeded in time, even if that is nothing."""

from __future__ import annotations

from strategies.base import NoOptions, Strategy
from strategies.deadline import Deadline
from strategies.fanout import FanOut
from strategies.outcome import Request, Result


class CollectStrategy(Strategy[NoOptions]):
    """Every target at once; at the deadline, or when all have ended, the successes. Always met."""

    async def execute(self, request: Request, deadline: Deadline) -> Result:
        with FanOut(self.fetch, request, deadline, self.reaper) as fan:
            for target in request.targets:
                fan.start(target)
            async for _ in fan:
                pass
            return fan.succeeded(fan.successes)
