"""What stands around a call to an upstream, in one visible order, and the fetch that strategies hold.

One stack per upstream: resilience belongs to an upstream, policy to a route, and neither knows the other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import reduce
from typing import Protocol, TypeAlias

import aiohttp

from strategies import Attempt, Budget, Fetch, Outcome
from upstream.admission import admission
from upstream.bound import bound
from upstream.circuits import Circuits
from upstream.fast_lane import FastLane, shortest
from upstream.lease import Leases, can_lease
from upstream.observe import AttemptObserver, observe
from upstream.retry import retry
from upstream.session import ConnectionObserver
from upstream.spare import spare
from upstream.spec import UpstreamSpec
from upstream.trace import AttemptTracer, trace
from upstream.transport import HttpTransport

Layer: TypeAlias = Callable[[Fetch], Fetch]


class Observer(AttemptObserver, ConnectionObserver, Protocol):
    """Whoever watches upstreams."""

    def retried(self, attempt: Attempt) -> None:
        """The attempt met a network failure and is tried once more."""


def compose(transport: Fetch, layers: Iterable[Layer]) -> Fetch:
    """*transport* with *layers* around it, the first one outermost."""
    return reduce(lambda fetch, layer: layer(fetch), reversed(list(layers)), transport)


def build_stack(
    session: aiohttp.ClientSession,
    spec: UpstreamSpec,
    observer: Observer,
    circuits: Circuits,
    clock: Callable[[], float],
    calm: Callable[[], bool],
    lane: FastLane | None = None,
    tracer: AttemptTracer | None = None,
) -> Fetch:
    """The call to one upstream and all that stands around it, outermost first."""
    budget = Budget()  # one per upstream: hedges and retries draw on it alike
    layers: list[Layer] = [
        # outside the retry: an ordinary attempt pays in once, however often it is tried
        lambda fetch: spare(fetch, budget, calm, clock),
    ]
    if spec.retry:
        # outside what follows, so that the second try is watched, admitted and bounded like the first
        layers.append(lambda fetch: retry(fetch, budget, clock, observer.retried))
    layers.append(lambda fetch: observe(fetch, observer, clock))  # sees every outcome, refusals included
    if tracer is not None:
        layers.append(lambda fetch: trace(fetch, tracer, clock))  # the same outcomes
    if spec.breaker is not None:
        # outside the bound, so that it counts what the bound cuts off
        layers.append(lambda fetch: admission(fetch, circuits.of, clock, spec.fair_time))
    if (seconds := spec.timeout) is not None:
        layers.append(lambda fetch: bound(fetch, seconds))  # nearest to the wire: it bounds the wire alone
    wire: Fetch = HttpTransport(session, spec, clock)
    if lane is not None:
        wire = shortest(lane, wire)
    return compose(wire, layers)


class Upstreams:
    """All upstreams behind one `strategies.Fetch`: an attempt goes to the stack that its target names."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        specs: Iterable[UpstreamSpec],
        observer: Observer,
        circuits: Circuits,
        clock: Callable[[], float],
        fast_lane: bool = False,
        calm: Callable[[], bool] = lambda: True,
        tracer: AttemptTracer | None = None,
    ) -> None:
        self._lanes: list[FastLane] = []
        self._stacks: dict[str, Fetch] = {}
        for spec in specs:
            lane = None
            if fast_lane and can_lease(session):
                lane = FastLane(Leases(session, spec.url), spec, observer, clock)
                self._lanes.append(lane)
            self._stacks[spec.name] = build_stack(
                session, spec, observer, circuits, clock, calm, lane, tracer
            )

    def close(self) -> None:
        """Close the connections of the fast lanes. The session is closed by whoever opened it."""
        for lane in self._lanes:
            lane.close()

    def fetch(self, attempt: Attempt) -> Awaitable[Outcome]:
        """Call the upstream that *attempt* names."""
        return self._stacks[attempt.target.upstream](attempt)
