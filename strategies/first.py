"""Ask everybody at once; the first success ends it."""

from __future__ import annotations

from strategies.base import NoOptions, Strategy
from strategies.deadline import Deadline
from strategies.fanout import FanOut
from strategies.outcome import Request, Result


class FirstStrategy(Strategy[NoOptions]):
    """Every target at once. A failure never wins over a success that is slower."""

    async def execute(self, request: Request, deadline: Deadline) -> Result:
        with FanOut(self.fetch, request, deadline, self.reaper) as fan:
            for target in request.targets:
                fan.start(target)
            return await fan.race()
