"""``python -m benchmarks.hedging``: what hedging brings and costs, simulated on virtual time.

Four worlds, each asked by the very strategies that serve the routes, behind the budget's layer: the upstream
of the work routes, a shape published by a peer, a fan-out over a hundred leaves, and a server with a queue
that stalls for a second. Against them: no hedge, a fixed delay, and an oracle that knows each call's fate
before it is made. Everything is seeded; ``tests/strategies/test_hedging_simulations.py`` holds the bounds.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import NormalDist
from typing import Any, TypeAlias

from benchmarks.table import render
from strategies import (
    AdaptiveOptions,
    AdaptiveStrategy,
    Answered,
    Attempt,
    Budget,
    Deadline,
    Failed,
    Fetch,
    FirstStrategy,
    HedgedOptions,
    HedgedStrategy,
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
from upstream.spare import spare

NEVER = 3600.0
"""Seconds of a call that hangs."""


# Policies ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """How requests are answered: by a strategy, over so many targets, within a budget (None: without)."""

    name: str
    make: Callable[[Fetch, Reaper], Strategy[Any]]
    targets: int = 3
    ratio: float | None = None
    burst: float = 10.0


def no_hedge() -> Policy:
    """One call, and that is all."""
    return Policy("no hedge", lambda fetch, reaper: FirstStrategy(fetch, reaper, NoOptions()), targets=1)


def fixed(delay: float, hedges: int = 1) -> Policy:
    """After *delay* seconds *hedges* more together, whatever it costs."""
    options = HedgedOptions(delay)
    name = f"fixed {delay * 1000:g} ms" + (f", {hedges} together" if hedges > 1 else "")
    return Policy(name, lambda fetch, reaper: HedgedStrategy(fetch, reaper, options), targets=hedges + 1)


def adaptive(ratio: float | None = 0.1, burst: float = 10.0, **options: Any) -> Policy:
    """The adaptive strategy, with a budget of *ratio* and *burst*."""
    chosen = AdaptiveOptions(**options)
    name = "adaptive" + (f", budget {ratio:.0%}" if ratio is not None else ", no budget")
    return Policy(name, lambda fetch, reaper: AdaptiveStrategy(fetch, reaper, chosen), 3, ratio, burst)


class Caller:
    """A policy at work over one upstream, and a count of its calls."""

    def __init__(self, policy: Policy, upstream: Fetch) -> None:
        clock = asyncio.get_running_loop().time
        self.calls = 0
        self._upstream = upstream
        fetch: Fetch = self._counted
        if policy.ratio is not None:
            fetch = spare(fetch, Budget(policy.ratio, policy.burst), lambda: True, clock)
        self._strategy = policy.make(fetch, Reaper(grace=0.0))
        self._request = Request("simulated", (Target("simulated"),) * policy.targets)
        self._clock = clock

    def _counted(self, attempt: Attempt) -> Awaitable[Outcome]:
        self.calls += 1
        return self._upstream(attempt)

    async def ask(self, timeout: float) -> float:
        """Seconds until the success; infinite without one."""
        began = self._clock()
        result = await self._strategy.execute(self._request, Deadline.after(timeout, now=began))
        return self._clock() - began if result.verdict is Verdict.SUCCESS else math.inf


# Upstreams whose calls know nothing of each other -------------------------------------------------------

Draw: TypeAlias = tuple[float, str]
"""How long a call takes, and what kind of call it is: ``bad`` (it fails), ``slow`` or ``good``."""


def work(rng: random.Random) -> Iterator[Draw]:
    """The assignment's: uniform 100 to 600 ms; of 11 calls 8 valid, a 500, an invalid one, and one hangs."""
    model = WorkModel(parse_latency("uniform:100-600"), 1 / 11, 1 / 11, 1 / 11)
    while True:
        seconds, mood = model.draw(rng)
        if mood is Mood.HANG:
            yield NEVER, "slow"
        else:
            yield seconds, "good" if mood is Mood.ANSWER else "bad"


def lognormal(rng: random.Random, mean: float, sd: float, share: float, times: float) -> Iterator[Draw]:
    """
    A lognormal latency, *times* as long for a *share* of the calls.

    Drawn in strata, in random order: a thousand draws in a row have the shares of the distribution itself,
    so that the mean over some ten thousand says as much as one over many more.
    """
    sigma = math.sqrt(math.log(1 + (sd / mean) ** 2))
    mu = math.log(mean) - sigma**2 / 2
    normal = NormalDist(mu, sigma)
    slow = round(1000 * share)
    while True:
        block = [
            (math.exp(normal.inv_cdf((number + rng.random()) / count)) * factor, kind)
            for count, factor, kind in ((slow, times, "slow"), (1000 - slow, 1.0, "good"))
            for number in range(count)
        ]
        rng.shuffle(block)
        yield from block


bimodal = partial(lognormal, mean=0.005, sd=0.002, share=0.05, times=10)
"""The published shape: lognormal, mean 5 ms, sd 2 ms, one call in twenty takes ten times as long."""
leaf = partial(lognormal, mean=0.010, sd=0.003, share=0.01, times=100)
"""A leaf that answers in 10 ms, but one time in a hundred in a second."""


Kind: TypeAlias = Callable[[random.Random], Iterator[Draw]]


def streams(kind: Kind, seed: int) -> tuple[Iterator[Draw], dict[str, Iterator[Draw]]]:
    """
    The draws of first calls, and those of extra ones, apart for each kind of first call: so the strata of
    the extra calls hold for the few that follow a slow one, which make the tail.
    """
    extra = {name: kind(random.Random(f"{seed} {name}")) for name in ("good", "slow", "bad")}
    return kind(random.Random(seed)), extra


def playing(kind: Kind, seed: int) -> Fetch:
    """An upstream that takes as long as the draws say."""
    first, extra = streams(kind, seed)
    before = "good"

    async def fetch(attempt: Attempt) -> Outcome:
        nonlocal before
        loop = asyncio.get_running_loop()
        began = loop.time()
        if attempt.number:
            seconds, name = next(extra[before])
        else:
            seconds, name = next(first)
            before = name
        await asyncio.sleep(seconds)
        if name == "bad":
            return Failed(attempt, began, loop.time(), "http_error")
        return Answered(attempt, began, loop.time(), Verdict.SUCCESS, None)

    return fetch


@dataclass(frozen=True)
class Seen:
    """What the callers saw: *times* of the requests (infinite: no success), and extra calls per request."""

    policy: str
    times: Sequence[float]
    extra: float

    @property
    def ok(self) -> float:
        """The share of successes."""
        return sum(seconds < math.inf for seconds in self.times) / len(self.times)

    def quantile(self, q: float) -> float:
        """Of the successes, in milliseconds."""
        good = sorted(seconds for seconds in self.times if seconds < math.inf)
        return good[min(len(good) - 1, int(q * len(good)))] * 1000

    def row(self) -> tuple[object, ...]:
        """For the table."""
        cuts = [f"{self.quantile(q):.1f}" for q in (0.5, 0.99, 0.999)]
        return self.policy, f"{self.ok:.1%}", *cuts, f"{self.extra:+.1%}"


COLUMNS = ("policy", "successes", "p50 ms", "p99 ms", "p99.9 ms", "extra calls")


def ask_in_turn(
    policy: Policy,
    kind: Callable[[random.Random], Iterator[Draw]],
    requests: int,
    timeout: float,
    seed: int = 1,
) -> Seen:
    """One request after the other. The first tenth is not counted: whoever learns has learnt by then."""

    async def story() -> Seen:
        caller = Caller(policy, playing(kind, seed))
        for _ in range(requests // 10):
            await caller.ask(timeout)
        caller.calls = 0
        times = [await caller.ask(timeout) for _ in range(requests)]
        return Seen(policy.name, times, caller.calls / requests - 1)

    return run_virtual(story())


def oracle(
    kind: Callable[[random.Random], Iterator[Draw]],
    requests: int,
    timeout: float,
    extra: float,
    seed: int = 1,
) -> Seen:
    """
    Knows what will become of each first call, and asks a second time, at once, where the first call will be
    worst: the share *extra* of the requests. Nobody can do better with so many second calls.
    """
    first, more = streams(kind, seed)
    draws = [next(first) for _ in range(requests)]
    times = [_seen(draw, timeout) for draw in draws]
    worst = sorted(range(requests), key=times.__getitem__, reverse=True)
    for number in worst[: round(extra * requests)]:
        times[number] = min(times[number], _seen(next(more[draws[number][1]]), timeout))
    return Seen("oracle", times, extra)


def _seen(draw: Draw, timeout: float) -> float:
    seconds, name = draw
    return seconds if name != "bad" and seconds < timeout else math.inf


def fan_out(policy: Policy, roots: int, leaves: int = 100, timeout: float = 10.0, seed: int = 1) -> Seen:
    """Each root asks all its leaves at once, and has its answer when the last of them has answered."""

    async def story() -> Seen:
        caller = Caller(policy, playing(leaf, seed))
        times: list[float] = []
        for number in range(-roots // 10, roots):
            if not number:
                caller.calls = 0
            answers = await asyncio.gather(*(caller.ask(timeout) for _ in range(leaves)))
            if number >= 0:
                times.append(max(answers))
        return Seen(policy.name, times, caller.calls / (roots * leaves) - 1)

    return run_virtual(story())


# A server with a queue ----------------------------------------------------------------------------------

CAPACITY = 200
"""Calls per second that the server can do."""
STALL_AT, STALL = 10.0, 1.0
"""It does nothing from then on, for so long."""


class Queue:
    """
    A server that does one call after the other, in order of arrival, and the work to its end: a caller who
    has gone is not noticed. The time of each call is exponential.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._free = 0.0
        """When all that is queued will be done, on a clock that stands still during the stall."""

    async def __call__(self, attempt: Attempt) -> Outcome:
        loop = asyncio.get_running_loop()
        began = loop.time()
        worked = began if began < STALL_AT else max(STALL_AT, began - STALL)
        self._free = max(self._free, worked) + self._rng.expovariate(CAPACITY)
        done = self._free if self._free < STALL_AT else self._free + STALL
        await asyncio.sleep(done - began)
        return Answered(attempt, began, loop.time(), Verdict.SUCCESS, None)


@dataclass(frozen=True)
class Stalled:
    """Successes of the requests that came in each second after the beginning of the stall."""

    policy: str
    load: float
    shares: Sequence[float]
    extra: float

    @property
    def recovered(self) -> int | None:
        """Seconds from the end of the stall until 99 % succeed again, and from then on; None if never."""
        bad = [second for second, share in enumerate(self.shares) if share < 0.99]
        if not bad:
            return 0
        return bad[-1] + 1 - round(STALL) if bad[-1] + 1 < len(self.shares) else None

    def row(self) -> tuple[object, ...]:
        """For the table."""
        shown = [f"{self.shares[second]:.0%}" for second in (0, 1, 2, 4, 8)]
        after = "never" if self.recovered is None else f"{self.recovered} s"
        return f"{self.load:.0%}", self.policy, *shown, f"{self.shares[-1]:.0%}", after, f"{self.extra:+.1%}"


STALLED_COLUMNS = (
    "load",
    "policy",
    "0-1 s",
    "1-2 s",
    "2-3 s",
    "4-5 s",
    "8-9 s",
    "last",
    "99 % after",
    "extra calls",
)


def stall(policy: Policy, load: float, seconds: int = 12, timeout: float = 1.0, seed: int = 1) -> Stalled:
    """Callers come at random, *load* of the capacity, and give up after *timeout*; then the stall."""

    async def story() -> Stalled:
        loop = asyncio.get_running_loop()
        caller, rng = Caller(policy, Queue(seed)), random.Random(seed)
        asked: list[tuple[float, asyncio.Future[float]]] = []
        calls = 0
        while (at := loop.time()) < STALL_AT + seconds:
            if not calls and at >= STALL_AT:
                calls = caller.calls
            asked.append((at, asyncio.ensure_future(caller.ask(timeout))))
            await asyncio.sleep(rng.expovariate(CAPACITY * load))
        kinds: list[list[bool]] = [[] for _ in range(seconds)]
        for at, future in asked:
            if at >= STALL_AT:
                kinds[int(at - STALL_AT)].append(await future < math.inf)
        shares = [sum(kind) / len(kind) for kind in kinds]
        return Stalled(policy.name, load, shares, (caller.calls - calls) / sum(map(len, kinds)) - 1)

    return run_virtual(story())


# The table ----------------------------------------------------------------------------------------------


def on_work(requests: int, timeout: float) -> list[Seen]:
    """World a."""
    policies = [no_hedge(), fixed(0.3, 2), adaptive(), adaptive(0.5), adaptive(1.0)]
    seen = [ask_in_turn(policy, work, requests, timeout) for policy in policies]
    return [
        *seen,
        *(
            replace(oracle(work, requests, timeout, share), policy=f"oracle, {share:.0%}")
            for share in (0.1, 0.5)
        ),
    ]


def on_bimodal(requests: int) -> list[Seen]:
    """World b."""
    policies = [no_hedge(), fixed(0.010), fixed(0.050), adaptive()]
    seen = [ask_in_turn(policy, bimodal, requests, 30.0) for policy in policies]
    return [*seen, oracle(bimodal, requests, 30.0, seen[-1].extra)]


def on_leaves(roots: int) -> list[Seen]:
    """World c. A hundred leaves want some nine hedges in one instant: the budget must have saved as much."""
    return [fan_out(policy, roots) for policy in (no_hedge(), fixed(0.02), fixed(0.05), adaptive(burst=50))]


def on_queue(seconds: int) -> list[Stalled]:
    """World d."""
    policies = [no_hedge(), fixed(0.05), adaptive(None), adaptive()]
    return [stall(policy, load, seconds) for load in (0.6, 0.75, 0.9) for policy in policies]


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hedging", description=__doc__)
    parser.add_argument("--requests", type=int, default=40_000, metavar="N", help="per policy (40000)")
    requests = parser.parse_args().requests
    for timeout in (0.4, 0.6, 1.0):
        print(f"\n(a) the work upstream, timeout {timeout * 1000:.0f} ms\n")
        print(render(COLUMNS, [seen.row() for seen in on_work(requests // 2, timeout)]))
    print("\n(b) lognormal, mean 5 ms, sd 2 ms, 5 % take ten times as long\n")
    print(render(COLUMNS, [seen.row() for seen in on_bimodal(requests)]))
    print("\n(c) 100 leaves of 10 ms, 1 % take a hundred times as long; all must answer\n")
    print(render(COLUMNS, [seen.row() for seen in on_leaves(requests // 80)]))
    print("\n(d) a server with a queue stalls for a second; successes by second since\n")
    print(render(STALLED_COLUMNS, [seen.row() for seen in on_queue(20)]))


if __name__ == "__main__":
    main()
