"""What the tests of this room share: an observer that remembers, and one attempt at one upstream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

import aiohttp

from strategies import Answered, Attempt, Deadline, Failed, Fetch, Outcome, Request, Target, Verdict
from upstream.call import Answer, Call
from upstream.circuits import Circuits
from upstream.fast_lane import FastLane, shortest
from upstream.lease import Leases
from upstream.payloads import work
from upstream.spec import UpstreamSpec
from upstream.stack import Upstreams
from upstream.transport import HttpTransport

T = TypeVar("T")
PATIENCE = 30.0
"""Seconds after which a test that should have ended long ago is broken. No test waits for it to pass."""


class Recorder:
    """Remembers what it observes."""

    def __init__(self) -> None:
        self.connections: list[tuple[str, str]] = []
        self.started: list[Attempt] = []
        self.ended: list[tuple[int, str, float]] = []

    def connection(self, upstream: str, state: str) -> None:
        self.connections.append((upstream, state))

    def retried(self, attempt: Attempt) -> None:
        """Part of the protocol; no test of this room asks for it."""

    def attempt_started(self, attempt: Attempt) -> None:
        self.started.append(attempt)

    def attempt_ended(self, attempt: Attempt, reason: str, seconds: float) -> None:
        self.ended.append((attempt.number, reason, round(seconds, 9)))


def attempt_for(upstream: str = "upstream", payload: object = None, deadline: float = 1e9) -> Attempt:
    """An attempt at *upstream* that nobody hurries."""
    target = Target(upstream, payload)
    return Attempt(Request("test", (target,)), target, 0, Deadline(deadline))


PATH = ["session"]
"""Which way to the upstream `transport_to` takes; tests/upstream/conftest.py runs every test on both."""
OBSERVER = [Recorder()]
"""Who is told of the connections of fast lanes."""
_LANES: WeakKeyDictionary[aiohttp.ClientSession, dict[tuple[str, int], FastLane]] = WeakKeyDictionary()


def transport_to(session: aiohttp.ClientSession, url: str, *, max_body: int = 1024 * 1024) -> Fetch:
    """A transport to *url* that wants valid ``work`` payloads."""
    spec = UpstreamSpec("upstream", url, accept=work, max_body=max_body)
    clock = asyncio.get_running_loop().time
    reference = HttpTransport(session, spec, clock)
    if PATH[0] == "session":
        return reference
    lanes = _LANES.setdefault(session, {})
    if (url, max_body) not in lanes:
        lanes[url, max_body] = FastLane(Leases(session, url), spec, OBSERVER[0], clock)
    return shortest(lanes[url, max_body], reference)


def upstreams_over(
    session: aiohttp.ClientSession, recorder: Recorder, *specs: UpstreamSpec, clock: Callable[[], float]
) -> Upstreams:
    """All of *specs* behind one fetch, as the application puts them together."""
    return Upstreams(session, specs, recorder, Circuits(specs, random.Random(1)), clock)


async def within(awaitable: Awaitable[T]) -> T:
    """What *awaitable* gives; a hang is an error, not a hang of the suite."""
    return await asyncio.wait_for(awaitable, PATIENCE)


async def ask(
    session: aiohttp.ClientSession, url: str, call: Call | None = None, *, max_body: int = 1024 * 1024
) -> Outcome:
    """Make one attempt at *url*."""
    return await within(transport_to(session, url, max_body=max_body)(attempt_for(payload=call)))


def body_of(outcome: Outcome) -> bytes:
    """The body of a successful outcome."""
    assert isinstance(outcome, Answered), outcome
    assert outcome.reason == "success", outcome
    assert isinstance(outcome.value, Answer)
    return outcome.value.body


def complaint_of(outcome: Outcome) -> tuple[str, str]:
    """The reason and the detail of a complete answer that is no success."""
    assert isinstance(outcome, Answered), outcome
    assert outcome.verdict is Verdict.FAILURE, outcome
    return outcome.reason, outcome.detail


def failure_of(outcome: Outcome) -> str:
    """The reason of an attempt that broke before an answer was complete."""
    assert isinstance(outcome, Failed), outcome
    return outcome.reason


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until *condition* holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)


async def turns(count: int = 20) -> None:
    """Give the loop *count* turns: what is on its way over loopback has arrived then."""
    for _ in range(count):
        await asyncio.sleep(0)


def acquired(session: aiohttp.ClientSession) -> int:
    """Connections that a call holds; those that a fast lane keeps at rest are not in use."""
    assert session.connector is not None
    at_rest = sum(lane.at_rest for lane in _LANES.get(session, {}).values())
    return len(session.connector._acquired) - at_rest
