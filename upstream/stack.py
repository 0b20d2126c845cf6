"""What stands around a call to an upstream, in one visible order, and the fetch that strategies hold.

One stack per upstream: resilience belongs to an upstream, policy to a route, and neither knows the other.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from functools import reduce
from typing import Protocol, TypeAlias

import aiohttp

from strategies import Attempt, Fetch, Outcome
from upstream.bound import bound
from upstream.observe import AttemptObserver, observe
from upstream.session import ConnectionObserver
from upstream.spec import UpstreamSpec
from upstream.transport import HttpTransport

Layer: TypeAlias = Callable[[Fetch], Fetch]


class Observer(AttemptObserver, ConnectionObserver, Protocol):
    """Whoever watches upstreams."""


def compose(transport: Fetch, layers: Iterable[Layer]) -> Fetch:
    """*transport* with *layers* around it, the first one outermost."""
    return reduce(lambda fetch, layer: layer(fetch), reversed(list(layers)), transport)


def build_stack(
    session: aiohttp.ClientSession, spec: UpstreamSpec, observer: Observer, clock: Callable[[], float]
) -> Fetch:
    """The call to one upstream and all that stands around it, outermost first."""
    layers: list[Layer] = [
        lambda fetch: observe(fetch, observer, clock),  # outermost: sees every outcome, refusals included
    ]
    if (seconds := spec.timeout) is not None:
        layers.append(lambda fetch: bound(fetch, seconds))  # nearest to the wire: it bounds the wire alone
    return compose(HttpTransport(session, spec, clock), layers)


class Upstreams:
    """All upstreams behind one `strategies.Fetch`: an attempt goes to the stack that its target names."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        specs: Iterable[UpstreamSpec],
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stacks = {spec.name: build_stack(session, spec, observer, clock) for spec in specs}

    def fetch(self, attempt: Attempt) -> Awaitable[Outcome]:
        """Call the upstream that *attempt* names."""
        return self._stacks[attempt.target.upstream](attempt)
