"""The contract's model check: the routes of the table against the modelled upstream, on virtual time.

Latency uniform 100 to 600 ms; of 11 answers 8 are valid, 1 a 500, 1 invalid, 1 never comes; independent.
An implementation in which a failed reply can win shows 79.9 % where the contract has 98.0 %.
"""

from __future__ import annotations

import asyncio
import random
from statistics import quantiles
from typing import Any

import pytest

from server.app import ROUTES
from server.routes import Route, load_table
from strategies import (
    Answered,
    Attempt,
    Deadline,
    Failed,
    FirstStrategy,
    NoOptions,
    Outcome,
    Reaper,
    Request,
    Strategy,
    Target,
    Verdict,
)
from strategies.testing import run_virtual
from upstream.simulator.latency import parse_latency
from upstream.simulator.work import Mood, WorkModel

MODEL = WorkModel(parse_latency("uniform:100-600"), 1 / 11, 1 / 11, 1 / 11)
REQUESTS = 12_000
TABLE = {route.name: route for route in load_table(ROUTES.read_text("utf-8"), {}).routes}


class ModelledFetch:
    """The upstream of the model, as a `strategies.Fetch`."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.calls = 0

    async def __call__(self, attempt: Attempt) -> Outcome:
        self.calls += 1
        loop = asyncio.get_running_loop()
        started = loop.time()
        seconds, mood = MODEL.draw(self.rng)
        await asyncio.sleep(3600 if mood is Mood.HANG else seconds)
        if mood is Mood.ANSWER:
            return Answered(attempt, started, loop.time(), Verdict.SUCCESS, None)
        return Failed(attempt, started, loop.time(), "http_error")


def measure(
    make: type[Strategy[Any]], options: object, targets: int, timeout: float
) -> tuple[float, list[float], float]:
    """Share of successes, their p50, p95 and p99 in milliseconds, and calls per request."""

    async def story() -> tuple[float, list[float], float]:
        fetch, reaper = ModelledFetch(random.Random(20261121)), Reaper()
        strategy = make(fetch, reaper, options)
        request = Request("model", (Target("work"),) * targets)
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(REQUESTS):
            now = loop.time()
            result = await strategy.execute(request, Deadline.after(timeout, now=now))
            if result.verdict is Verdict.SUCCESS:
                times.append((loop.time() - now) * 1000)
        cuts = quantiles(times, n=100)
        return len(times) / REQUESTS * 100, [cuts[49], cuts[94], cuts[98]], fetch.calls / REQUESTS

    return run_virtual(story())


def measure_route(route: Route, timeout: float) -> tuple[float, list[float], float]:
    """The same for a route of the table."""
    return measure(route.strategy, route.options, len(route.targets), timeout)


def test_smart_at_1000() -> None:
    """98.0 % succeed, p50/p95/p99 are 411/718/847 ms, at 2.42 calls per request."""
    share, cuts, calls = measure_route(TABLE["smart"], 1.0)
    assert share == pytest.approx(98.0, abs=1)
    assert cuts == pytest.approx([411, 718, 847], rel=0.03)
    assert calls == pytest.approx(2.42, abs=0.03)


@pytest.mark.parametrize(("timeout", "share"), [(0.6, 87.6), (0.4, 45.8)])
def test_smart_with_less_time(timeout: float, share: float) -> None:
    """87.6 % at 600 ms, 45.8 % at 400 ms."""
    assert measure_route(TABLE["smart"], timeout)[0] == pytest.approx(share, abs=1)


def test_first_of_three_at_1000() -> None:
    """98.0 %, p50/p95/p99 238/506/574 ms."""
    share, cuts, calls = measure(FirstStrategy, NoOptions(), 3, 1.0)
    assert share == pytest.approx(98.0, abs=1)
    assert cuts == pytest.approx([238, 506, 574], rel=0.03)
    assert calls == 3
