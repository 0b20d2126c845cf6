"""What the adaptive strategy brings and costs, held to bounds, in worlds simulated on virtual time.

The worlds are in ``benchmarks/hedging.py``, which prints them as tables.
"""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from benchmarks.hedging import (
    Caller,
    adaptive,
    ask_in_turn,
    bimodal,
    fan_out,
    fixed,
    no_hedge,
    oracle,
    stall,
    work,
)
from strategies import Answered, Attempt, Outcome, Verdict
from strategies.testing import run_virtual


def test_on_the_work_upstream_a_tenth_more_calls_save_five_requests_in_a_hundred() -> None:
    """At 1000 ms; an oracle saves 7.6. The policy with a budget of one half saves 18 or more."""
    none = ask_in_turn(no_hedge(), work, 5000, 1.0)
    tenth = ask_in_turn(adaptive(), work, 5000, 1.0)
    half = ask_in_turn(adaptive(0.5), work, 5000, 1.0)
    best = oracle(work, 5000, 1.0, 0.1)
    assert none.ok == pytest.approx(8 / 11, abs=0.015)
    assert none.ok + 0.035 < tenth.ok < best.ok
    assert tenth.extra <= 0.1 + 10 / 5000
    assert half.ok > none.ok + 0.16
    assert half.extra < 0.45


def test_on_the_published_shape() -> None:
    """The peer has p99 64.3 -> 17.0 ms and p99.9 59.4 ms at 8.9 % more calls."""
    seen = ask_in_turn(adaptive(), bimodal, 40_000, 30.0)
    assert seen.ok == 1
    assert seen.quantile(0.99) <= 16.0
    assert seen.quantile(0.999) < 59.4
    assert seen.extra <= 0.09


def test_a_root_over_a_hundred_leaves_sheds_the_tail_of_its_leaves() -> None:
    """One leaf in a hundred is slow, so 63 % of the roots are; hedged, not one in a hundred."""
    none, hedged = fan_out(no_hedge(), 30), fan_out(adaptive(burst=50), 100)
    assert none.quantile(0.5) > 500
    assert hedged.quantile(0.5) < 30
    assert hedged.quantile(0.99) < 150
    assert hedged.extra <= 0.1


@pytest.mark.fault(67)
@pytest.mark.parametrize(("load", "within"), [(0.6, 2), (0.75, 2), (0.9, 5)])
def test_after_a_stall_success_returns(load: float, within: int) -> None:
    """99 % succeed again within so many seconds of the stall's end, and from then on."""
    recovered = stall(adaptive(), load).recovered
    assert recovered is not None
    assert recovered <= within


@pytest.mark.fault(67)
@pytest.mark.parametrize("load", [0.6, 0.75, 0.9])
def test_hedging_without_a_bound_never_recovers(load: float) -> None:
    """The stall is over after a second, and twelve later nobody is answered."""
    seen = stall(fixed(0.05), load)
    assert seen.recovered is None
    assert seen.shares[-1] < 0.01


def test_seeing_that_all_are_slow_is_enough_at_moderate_load() -> None:
    """Even without a budget: nobody is overtaken, so nobody hedges."""
    assert stall(adaptive(None), 0.6).recovered in (0, 1, 2)


def test_when_all_calls_are_ten_times_slower_the_extra_ones_stay_in_the_budget() -> None:
    """In every window of a thousand requests: a tenth, and the burst."""

    async def story() -> list[int]:
        rng, slowness = random.Random(1), 1.0

        async def upstream(attempt: Attempt) -> Outcome:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await asyncio.sleep(rng.lognormvariate(math.log(0.005), 0.4) * slowness)
            return Answered(attempt, began, loop.time(), Verdict.SUCCESS, None)

        caller, windows = Caller(adaptive(), upstream), []
        for slowness in (1.0, 10.0, 10.0, 100.0):  # noqa: B007 - the upstream reads it
            before = caller.calls
            for _ in range(1000):
                await caller.ask(30.0)
            windows.append(caller.calls - before - 1000)
        return windows

    windows = run_virtual(story())
    assert all(extra <= 110 for extra in windows)
    assert all(extra > 20 for extra in windows)
