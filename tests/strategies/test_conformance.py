"""Every strategy of ours keeps the laws, and the kit notices each way of breaking them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from strategies import (
    Answered,
    Attempt,
    Deadline,
    FanOut,
    NoOptions,
    Request,
    Result,
    Strategy,
    Verdict,
)
from strategies.registry import BUILT_IN, build_options
from strategies.testing import ConformanceError, check_strategy


@pytest.mark.fault(63)
@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("targets", [1, 2, 3])
def test_built_in_strategies_keep_the_laws(name: str, targets: int) -> None:
    """With one, two and three targets."""
    strategy = BUILT_IN[name]
    check_strategy(lambda f, r: strategy(f, r, build_options(strategy, {})), targets=targets)


class Waiting(Strategy[NoOptions]):
    """A base for the broken ones: ask one target by hand."""

    def attempt(self, request: Request, deadline: Deadline) -> Attempt:
        return Attempt(request, request.targets[0], 0, deadline)

    async def execute(self, request: Request, deadline: Deadline) -> Result:
        raise NotImplementedError


class TooLate(Waiting):
    async def execute(self, request: Request, deadline: Deadline) -> Result:
        outcome = await self.fetch(self.attempt(request, deadline))
        return Result((outcome,), (), Verdict.FAILURE)


class WaitsForLosers(Waiting):
    async def execute(self, request: Request, deadline: Deadline) -> Result:
        try:
            async with asyncio.timeout_at(deadline.at):
                outcome = await self.fetch(self.attempt(request, deadline))
        except TimeoutError:
            return Result((), (), Verdict.FAILURE)
        won = outcome if isinstance(outcome, Answered) else None
        return Result((outcome,), (won,) if won else (), Verdict.SUCCESS, won)


class LeavesTasks(Waiting):
    async def execute(self, request: Request, deadline: Deadline) -> Result:
        asyncio.ensure_future(self.fetch(self.attempt(request, deadline)))  # noqa: RUF006
        return Result((), (), Verdict.FAILURE)


class ForgetsAnswers(Waiting):
    async def execute(self, request: Request, deadline: Deadline) -> Result:
        with FanOut(self.fetch, request, deadline, self.reaper) as fan:
            for target in request.targets:
                fan.start(target)
            async for _ in fan:
                pass
            fan.succeeded(fan.successes)  # claims them all ...
            return Result((), (), Verdict.FAILURE)  # ... and drops them


class FirstCompletedWins(Waiting):
    async def execute(self, request: Request, deadline: Deadline) -> Result:
        with FanOut(self.fetch, request, deadline, self.reaper) as fan:
            for target in request.targets:
                fan.start(target)
            outcome = await fan.next()
            return fan.won(outcome) if outcome is not None else fan.failed()


class SwallowsCancellation(Waiting):
    async def execute(self, request: Request, deadline: Deadline) -> Result:
        try:
            with FanOut(self.fetch, request, deadline, self.reaper) as fan:
                fan.start(request.targets[0])
                return await fan.race()
        except asyncio.CancelledError:
            return Result((), (), Verdict.FAILURE)


class HidesBugs(Waiting):
    async def execute(self, request: Request, deadline: Deadline) -> Result:
        try:
            with FanOut(self.fetch, request, deadline, self.reaper) as fan:
                fan.start(request.targets[0])
                return await fan.race()
        except Exception:
            return Result((), (), Verdict.FAILURE)


@pytest.mark.parametrize(
    ("strategy", "law"),
    [
        (TooLate, "after the deadline"),
        (WaitsForLosers, "clean-up of losers delays the answer"),
        (LeavesTasks, "that the reaper does not own"),
        (ForgetsAnswers, "was closed 0 times instead of 1"),
        (FirstCompletedWins, "raises AssertionError"),
        (SwallowsCancellation, "swallows a cancellation"),
        (HidesBugs, "a bug in the fetch is hidden"),
    ],
)
def test_the_kit_notices(strategy: type[Strategy[Any]], law: str) -> None:
    """Each broken strategy is told which law it breaks."""
    with pytest.raises(ConformanceError, match=law):
        check_strategy(lambda fetch, reaper: strategy(fetch, reaper, NoOptions()))
