"""A layer that gives each attempt a span, and tells the upstream which one (W3C ``traceparent``).

It is there only when traces are collected. What a span is, and which trace it belongs to, its tracer knows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from strategies import Attempt, Coming, Fetch, Outcome, coming, listen
from upstream.call import GET, Call
from upstream.observe import ended_as


class AttemptSpan(Protocol):
    """The span of one attempt."""

    traceparent: str
    """What is sent to the upstream; empty: nothing."""

    def end(self, reason: str, outcome: Outcome | None) -> None:
        """It has come to *outcome*; None: it was cut off. *reason* is as in `upstream.observe`."""


class AttemptTracer(Protocol):
    """Whoever traces attempts."""

    def begin(self, attempt: Attempt, call: Call) -> AttemptSpan | None:
        """The span of *attempt*, which makes *call*; None: it belongs to no trace."""


def trace(fetch: Fetch, tracer: AttemptTracer, clock: Callable[[], float]) -> Fetch:
    """*fetch*, each attempt in a span of *tracer*."""

    def traced(attempt: Attempt) -> Awaitable[Outcome]:
        payload = attempt.target.payload
        call = payload if isinstance(payload, Call) else GET
        span = tracer.begin(attempt, call)
        if span is None:
            return fetch(attempt)
        telling = replace(attempt.target, payload=replace(call, traceparent=span.traceparent))
        outcome = coming(fetch(replace(attempt, target=telling)))

        def ended(done: Coming) -> None:
            cut_off = done.cancelled() or done.exception() is not None
            span.end(ended_as(done, attempt, clock()), None if cut_off else done.result())

        listen(outcome, ended)
        return outcome

    return traced
