"""The layer that refuses extra attempts, over a scripted fetch."""

from __future__ import annotations

import asyncio

from strategies import Attempt, Budget, Deadline, FanOut, Outcome, Reaper, Rejected, Target, Verdict
from strategies.testing import ScriptedFetch, answers, fails, request_for, run_virtual
from upstream.spare import spare


def clock() -> float:
    """The virtual clock."""
    return asyncio.get_running_loop().time()


async def ask(budget: Budget, *, calm: bool = True, hedge: bool = False, optional: bool = False) -> Outcome:
    """What becomes of one attempt."""
    request = request_for(1)
    attempt = Attempt(request, Target("any"), 1, Deadline(9.0), hedge, optional)
    return await spare(ScriptedFetch(answers(0.1)), budget, lambda: calm, clock)(attempt)


def test_ordinary_attempts_pay_and_optional_ones_cost() -> None:
    """Ten ordinary attempts pay for an optional one."""

    async def story() -> None:
        budget = Budget(ratio=0.1, burst=1)
        assert budget.withdraw()
        for _ in range(10):
            assert (await ask(budget)).verdict is Verdict.SUCCESS
        assert (await ask(budget, hedge=True, optional=True)).verdict is Verdict.SUCCESS
        refused = await ask(budget, hedge=True, optional=True)
        assert isinstance(refused, Rejected)
        assert (refused.reason, refused.verdict) == ("over_budget", Verdict.IGNORED)
        assert refused.started == refused.ended == clock()

    run_virtual(story())


def test_a_hedge_that_the_rule_demands_neither_pays_nor_costs() -> None:
    """It is no traffic of its own, and it may not be refused."""

    async def story() -> None:
        budget = Budget(ratio=0.1, burst=1)
        assert budget.withdraw()
        for _ in range(100):
            assert (await ask(budget, hedge=True)).verdict is Verdict.SUCCESS
        assert budget.tokens == 0

    run_virtual(story())


def test_while_requests_are_turned_away_nothing_optional_goes_out() -> None:
    """An ordinary attempt does, and the refusal takes no token."""

    async def story() -> None:
        budget = Budget()
        refused = await ask(budget, calm=False, hedge=True, optional=True)
        assert refused.reason == "shedding"
        assert budget.tokens == 10
        assert (await ask(budget, calm=False)).verdict is Verdict.SUCCESS

    run_virtual(story())


def test_a_fan_out_says_which_attempts_are_optional() -> None:
    """The flag goes from ``start`` to the attempt, and is off if nobody says so."""

    async def story() -> None:
        with FanOut(ScriptedFetch(fails(0.1)), request_for(1), Deadline(1.0), Reaper()) as fan:
            fan.start(Target("any"))
            fan.start(Target("any"), hedge=True)
            fan.start(Target("any"), hedge=True, optional=True)
            seen = [(outcome.attempt.hedge, outcome.attempt.optional) async for outcome in fan]
        assert seen == [(False, False), (True, False), (True, True)]

    run_virtual(story())
