"""What an operator can see: counters and histograms, each with one meaning.

Labels come from the route table and from our own words, never from a request, so the number of series is
bounded. The reference page of the metrics is written from this class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from server.tally import Tallies
from strategies import Attempt, Reaper, Result
from upstream.breaker import State
from upstream.circuits import Circuits

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series per series, which nobody reads

SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6),
    *(0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0),
)
"""Bucket bounds from 1 ms to 30 s, closest together where deadlines and hedges are set."""
SLACK = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)
LAG = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


NEVER_RAN = frozenset({"cancelled", "circuit_open", "over_budget", "shedding", "reaper_full"})
"""Reasons whose durations say nothing about the upstream: cut short, or refused before a call was made."""
STATES = (State.CLOSED, State.HALF_OPEN, State.OPEN)
"""In the order of the numbers that stand for them."""


class CircuitCollector(Collector):
    """Reads the circuits when Prometheus asks; they keep the counts themselves."""

    def __init__(self, circuits: Circuits, clock: Callable[[], float]) -> None:
        self._circuits = circuits
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """The metrics, without asking any circuit."""
        return self._families()

    def collect(self) -> Iterable[Metric]:
        """One sample per upstream and operation."""
        state, left, entered, refusals = families = self._families()
        now = self._clock()
        for upstream, operation, circuit in self._circuits:
            labels = [upstream, operation]
            state.add_metric(labels, STATES.index(circuit.state(now)))
            left.add_metric(labels, circuit.seconds_left(now))
            refusals.add_metric(labels, circuit.refusals)
            for one in STATES:
                entered.add_metric([*labels, one.value], circuit.entered[one])
        return families

    def _families(
        self,
    ) -> tuple[GaugeMetricFamily, GaugeMetricFamily, CounterMetricFamily, CounterMetricFamily]:
        labels = ["upstream", "operation"]
        return (
            GaugeMetricFamily("hedgerow_circuit_state", "0 closed, 1 half open, 2 open.", labels=labels),
            GaugeMetricFamily(
                "hedgerow_circuit_seconds_to_probe",
                "Seconds until the next probe may go out; 0 unless open.",
                labels=labels,
            ),
            CounterMetricFamily(
                "hedgerow_circuit_transitions",
                "How often the circuit went into each state.",
                labels=[*labels, "to"],
            ),
            CounterMetricFamily("hedgerow_circuit_refusals", "Calls refused by the circuit.", labels=labels),
        )


class Telemetry:
    """The metrics of one application, in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        tallies = Tallies()
        self._attempts = tallies.counter(
            "hedgerow_attempts",
            "Calls to an upstream that ended, by what became of them.",
            ["upstream", "route", "outcome"],
        )
        self._attempt_seconds = tallies.histogram(
            "hedgerow_attempt_seconds",
            "How long calls to an upstream took; those that were cancelled are left out.",
            ["upstream", "route"],
            SECONDS,
        )
        self._in_flight = tallies.gauge(
            "hedgerow_attempts_in_flight", "Calls to an upstream that are under way.", ["upstream"]
        )
        self._connections = tallies.counter(
            "hedgerow_connections",
            "Connections that calls to an upstream were made on, opened for them or reused.",
            ["upstream", "state"],
        )
        self._wins = tallies.counter(
            "hedgerow_wins",
            "Races by the number of the attempt that won; 0 is the first.",
            ["route", "attempt"],
        )
        self._hedges = tallies.counter("hedgerow_hedges", "Hedges that were fired.", ["route"])
        self._retries = tallies.counter(
            "hedgerow_retries", "Calls tried once more after a network failure.", ["upstream", "route"]
        )
        self._slack = tallies.histogram(
            "hedgerow_deadline_slack_seconds",
            "Time left until the caller's deadline when the answer was ready.",
            ["route"],
            SLACK,
        )
        self._missed = tallies.counter(
            "hedgerow_deadline_missed", "Answers that were ready too late.", ["route"]
        )
        self._responses = tallies.counter(
            "hedgerow_responses",
            "Responses by status and reason; status 499 means that the caller went away.",
            ["route", "status", "reason"],
        )
        self._response_seconds = tallies.histogram(
            "hedgerow_response_seconds",
            "How long requests took, from their arrival to the answer.",
            ["route"],
            SECONDS,
        )
        self._requests_in_flight = tallies.gauge(
            "hedgerow_requests_in_flight", "Requests being answered.", ["route"]
        )
        self._shed = tallies.counter(
            "hedgerow_shed",
            "Requests refused for overload: for the wait that is before them, or the age that they have.",
            ["reason"],
        )
        self.loop_lag = tallies.histogram(
            "hedgerow_loop_lag_seconds", "How late the event loop runs its timers.", [], LAG
        )[()]
        registry.register(tallies)
        self.scrape_seconds = Histogram(
            "hedgerow_scrape_seconds",
            "How long it took to gather these metrics, from all workers.",
            buckets=SECONDS,
            registry=registry,
        )
        self._spans = Counter(
            "hedgerow_spans",
            "Spans of traces that were sent to the collector, or lost because it did not take them in time.",
            ["outcome"],
            registry=registry,
        )
        self._losers = Gauge(
            "hedgerow_losers", "Lost attempts that are still winding down.", registry=registry
        )
        self._zombies = Gauge(
            "hedgerow_zombies", "Lost attempts that have not ended for 5 s.", registry=registry
        )

    def attempt_started(self, attempt: Attempt) -> None:
        """An `upstream.observe.AttemptObserver`."""
        self._in_flight[(attempt.target.upstream,)] += 1
        if attempt.hedge:
            self._hedges[(attempt.request.route,)] += 1

    def attempt_ended(self, attempt: Attempt, reason: str, seconds: float) -> None:
        """An `upstream.observe.AttemptObserver`."""
        upstream, route = attempt.target.upstream, attempt.request.route
        self._in_flight[(upstream,)] -= 1
        self._attempts[upstream, route, reason] += 1
        if reason not in NEVER_RAN:
            self._attempt_seconds[upstream, route].observe(seconds)

    def connection(self, upstream: str, state: str) -> None:
        """A `upstream.session.ConnectionObserver`."""
        self._connections[upstream, state] += 1

    def asking(self, route: str) -> None:
        """A request has begun to ask."""
        self._requests_in_flight[(route,)] += 1

    def asked(self, route: str) -> None:
        """It has ended, one way or another."""
        self._requests_in_flight[(route,)] -= 1

    def fan_out(self, route: str, result: Result, slack: float) -> None:
        """A strategy has come to *result*, with *slack* seconds left until the caller's deadline."""
        self._slack[(route,)].observe(slack)
        if slack < 0:
            self._missed[(route,)] += 1
        if result.winner is not None:
            self._wins[route, result.winner.attempt.number] += 1

    def response(self, route: str, status: int, reason: str, seconds: float) -> None:
        """A request was answered, or its caller went away (499)."""
        self._responses[route, status, reason] += 1
        self._response_seconds[(route,)].observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was shed."""
        self._shed[(reason,)] += 1

    def retried(self, attempt: Attempt) -> None:
        """An `upstream.stack.Observer`."""
        self._retries[attempt.target.upstream, attempt.request.route] += 1

    def spans(self, outcome: str, number: int) -> None:
        """That many spans were ``sent`` or ``lost``. Any thread may say so."""
        self._spans.labels(outcome).inc(number)

    def watch_circuits(self, circuits: Circuits, clock: Callable[[], float]) -> None:
        """Show how each circuit stands."""
        self.registry.register(CircuitCollector(circuits, clock))

    def watch(self, reaper: Reaper, clock: Callable[[], float]) -> None:
        """Show how many losers the reaper holds, and how many of them will not end."""
        self._losers.set_function(lambda: reaper.pending)
        self._zombies.set_function(lambda: reaper.zombies(clock()))
