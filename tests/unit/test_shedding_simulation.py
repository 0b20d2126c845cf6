"""Overload, simulated: the real gate in front of one loop that can do 1736 requests a second.

The loop turns as libuv's does: timers, then what is ready, then everything that came on sockets meanwhile.
A request costs 576 µs in four parts, a refusal 12 µs: an upstream call by way of the session, on a slow core.
Arrivals are open-loop: whoever is refused or late does not slow the others down. Each timeout is kept as the
server keeps it: an answer that is not there 10 ms before the end is given up.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest

from server.gate import Gate
from server.loop_lag import PERIOD
from strategies import Verdict
from upstream.admission import Refusal

READ, START, RESPONSE, FINISH = 30e-6, 270e-6, 26e-6, 250e-6
"""Seconds of CPU: parse; begin the handler and call; read the upstream's answer; end the handler."""
CAPACITY = 1 / (READ + START + RESPONSE + FINISH)
REFUSE = 12e-6
ENTER = 6e-6
"""Of each of them, what is spent before the gate has decided."""
TICK = 0.004
"""Seconds of a kernel's tick: it tells the age of a request in these."""
GIVE_UP = 0.010
NEVER = float("inf")


@dataclass
class Caller:
    """A `server.gate.Guest`."""

    simulation: Simulation
    came: float
    gone: bool = False

    def can_wait(self, now: float, seconds: float) -> bool:
        """Nobody here has been refused before."""
        return False

    def hopeless(self, now: float, need: float) -> bool:
        """By what the kernel tells of its age."""
        age = (now - self.came) // TICK * TICK
        return age > 0 and age + need > self.simulation.timeout

    def begin(self) -> None:
        """Taken."""
        self.simulation.begun(self.came)

    def refuse(self, refusal: Refusal) -> None:
        """Not taken."""
        self.simulation.refused(self.came)


@dataclass
class Simulation:
    """
    Args:
        load: arrivals as a multiple of the capacity, at a time.
        seconds: how long they come.
        latency: of the upstream, in seconds, at a time.
        timeout: what every caller gives.
        burst: so many more come together, in the first instant.
    """

    load: Callable[[float], float]
    seconds: int
    latency: Callable[[float], float] = lambda _: 0.05
    timeout: float = 0.3
    seed: int = 1
    burst: int = 0
    good: Counter[int] = field(default_factory=Counter)
    """Answers in time, by the second in which the request came."""
    shed: Counter[int] = field(default_factory=Counter)
    late: int = 0
    refused_after: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = 0.0
        self._soon: list[Callable[[], None]] = []
        self._ready: list[Callable[[], None]] = []
        self._calls: list[tuple[float, float, bool]] = []
        rng = random.Random(self.seed)
        self._lag = 0.0
        self._gate = Gate(self._soon.append, lambda: self.now, lambda: self._lag, rng)
        self._coming = iter(self._arrivals(rng))

    def _arrivals(self, rng: random.Random) -> list[float]:
        times, at = [0.0] * self.burst, 0.0
        while at < self.seconds:
            at += rng.expovariate(self.load(at) * CAPACITY)
            times.append(at)
        return [*times[:-1], NEVER]

    def run(self) -> Simulation:
        """Until all is over."""
        self._next, tick = next(self._coming), PERIOD
        while self._next < NEVER or self._calls or self._ready or self._soon:
            if self.now >= tick:
                self._lag = self.now - tick
                tick = self.now + PERIOD
            ready, self._ready = [*self._soon, *self._ready], []
            self._soon.clear()
            for callback in ready:
                callback()
            if not self._ready and not self._soon:
                self.now = max(self.now, min(self._next, self._calls[0][0] if self._calls else NEVER, tick))
            self._poll(self.now)
        return self

    def _poll(self, now: float) -> None:
        """Everything that is on the sockets at *now*, in the order in which it came."""
        while min(self._next, self._calls[0][0] if self._calls else NEVER) <= now:
            if self._calls and self._calls[0][0] <= self._next:
                _, came, answered = heapq.heappop(self._calls)
                self.now += RESPONSE
                self._ready.append(partial(self._finish, came, answered))
            else:
                came, self._next = self._next, next(self._coming)
                self._arrive(came)

    def _arrive(self, came: float) -> None:
        self.now += ENTER
        self._gate.enter(Caller(self, came), self.now)

    def refused(self, came: float) -> None:
        """The gate has refused who came then."""
        self.now += REFUSE - ENTER
        self.shed[int(came)] += 1
        self.refused_after.append(self.now - came)

    def begun(self, came: float) -> None:
        """The gate has taken who came then."""
        self.now += READ - ENTER
        self._ready.append(partial(self._start, came))

    def _start(self, came: float) -> None:
        self.now += START
        answer, end = self.now + self.latency(self.now), came + self.timeout - GIVE_UP
        heapq.heappush(self._calls, (max(self.now, min(answer, end)), came, answer < end))

    def _finish(self, came: float, answered: bool) -> None:
        self.now += FINISH
        self._gate.settle(Verdict.IGNORED, self.now)
        on_time = self.now <= came + self.timeout
        self.good[int(came)] += answered and on_time
        self.late += answered and not on_time

    @property
    def goodput(self) -> float:
        """Answers in time, as a share of the capacity."""
        return self.good.total() / self.seconds / CAPACITY

    @property
    def refusal_p99(self) -> float:
        """Seconds within which 99 % of the refusals came."""
        return sorted(self.refused_after)[int(len(self.refused_after) * 0.99)]


@pytest.mark.parametrize("load", [0.7, 0.9])
def test_below_capacity_nobody_is_refused(load: float) -> None:
    """Not even at 90 %, where bursts queue."""
    seen = Simulation(lambda _: load, seconds=8).run()
    assert seen.shed.total() == 0
    assert seen.late == 0
    assert seen.goodput == pytest.approx(load, abs=0.02)


@pytest.mark.fault(73)
@pytest.mark.parametrize(("load", "least"), [(2, 0.95), (5, 0.88), (10, 0.75)])
def test_over_capacity_what_is_taken_is_answered_in_time(load: float, least: float) -> None:
    """From the first second nearly all capacity goes into answers, none is late, and refusals are quick."""
    seen = Simulation(lambda _: load, seconds=6).run()
    assert seen.goodput >= least
    assert min(seen.good[second] for second in range(6)) >= (least - 0.02) * CAPACITY
    assert seen.late == 0
    assert seen.refusal_p99 <= 0.050


@pytest.mark.fault(74)
def test_a_step_to_ten_times_and_back_leaves_nothing_behind() -> None:
    """From half the capacity to ten times for 3 s: useful throughout, and nobody refused 2 s later."""
    seen = Simulation(lambda now: 10 if 2 <= now < 5 else 0.5, seconds=10).run()
    assert min(seen.good[second] for second in (2, 3, 4)) >= 0.75 * CAPACITY
    assert seen.late == 0
    assert all(seen.shed[second] == 0 for second in (0, 1, 7, 8, 9))
    assert min(seen.good[second] for second in (7, 8, 9)) >= 0.45 * CAPACITY


@pytest.mark.parametrize("timeout", [0.3, 3.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_slow_upstream_is_no_overload(timeout: float, seed: int) -> None:
    """At 80 % an upstream turns 2 s slow: 5 or 40 times as many are under way, and nobody is refused."""
    seen = Simulation(lambda _: 0.8, 6, lambda now: 0.05 if now < 2 else 2.0, timeout, seed).run()
    assert seen.shed.total() == 0
    assert seen.late == 0
    if timeout > 2:
        assert seen.goodput == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_upstream_that_is_well_again(seed: int) -> None:
    """What timed out meanwhile falls due with the new answers: a moment of overload, no more."""
    seen = Simulation(lambda _: 0.8, 7, lambda now: 2.0 if 2 <= now < 4 else 0.05, 0.3, seed).run()
    assert set(seen.shed) <= {4}
    assert seen.shed[4] <= 0.2 * CAPACITY
    assert seen.late == 0
    assert min(seen.good[second] for second in (5, 6)) >= 0.7 * CAPACITY


def test_a_hundred_callers_in_one_instant_are_all_answered() -> None:
    """A burst that can be answered in time is no overload; a few who come right after it are refused."""
    seen = Simulation(lambda _: 0.1, seconds=1, burst=100).run()
    assert seen.shed.total() <= 10
    assert seen.good[0] >= 100 + 0.09 * CAPACITY
    assert seen.late == 0


def test_of_a_thousand_in_one_instant_those_taken_are_answered() -> None:
    """And the rest know before work on any has begun."""
    seen = Simulation(lambda _: 0.1, seconds=1, burst=1000).run()
    assert seen.good[0] > 100
    assert seen.late == 0
    assert seen.refusal_p99 < 0.050
