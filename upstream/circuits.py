"""All circuits: one per upstream and operation, so that a broken write leaves the reads alone."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping

from strategies import Attempt
from upstream.breaker import CircuitBreaker, LocalStore, State, Store
from upstream.call import DEFAULT_OPERATION, Call
from upstream.spec import UpstreamSpec

log = logging.getLogger("hedgerow.upstream")


class Circuits:
    """
    The circuits of the upstreams that have a breaker.

    Args:
        specs: every upstream; those without breaker options get no circuits.
        rng: decides the jitter of open times.
        store: makes the store of circuit number n, counted over all upstreams in their order.
    """

    def __init__(
        self,
        specs: Iterable[UpstreamSpec],
        rng: random.Random,
        store: Callable[[int], Store] = lambda number: LocalStore(),
    ) -> None:
        self._circuits: dict[tuple[str, str], CircuitBreaker] = {}
        for spec in specs:
            if spec.breaker is not None:
                for operation in spec.operations:
                    circuit = CircuitBreaker(spec.breaker, rng, store(len(self._circuits)))
                    circuit.listen(_say(spec.name, operation))
                    self._circuits[spec.name, operation] = circuit

    def of(self, attempt: Attempt) -> CircuitBreaker:
        """The circuit that decides about *attempt*."""
        call = attempt.target.payload
        operation = call.operation if isinstance(call, Call) else DEFAULT_OPERATION
        return self._circuits[attempt.target.upstream, operation]

    def __iter__(self) -> Iterator[tuple[str, str, CircuitBreaker]]:
        """Upstream, operation and circuit, for all of them."""
        for (upstream, operation), circuit in self._circuits.items():
            yield upstream, operation, circuit

    def told(self, upstream: str, now: float) -> Mapping[str, Mapping[str, object]]:
        """How the circuits of *upstream* stand, by operation, for people and probes."""
        return {
            operation: {
                "state": circuit.state(now).value,
                "secondsToProbe": round(circuit.seconds_left(now), 1),
            }
            for name, operation, circuit in self
            if name == upstream
        }


def _say(upstream: str, operation: str) -> Callable[[State, State, float], None]:
    def changed(before: State, after: State, now: float) -> None:
        level = logging.WARNING if after is State.OPEN else logging.INFO
        told = {"upstream": upstream, "operation": operation, "from": before.value, "to": after.value}
        log.log(level, "circuit %s", after.value, extra=told)

    return changed
