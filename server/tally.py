"""Counts and distributions that are kept as plain numbers and become Prometheus metrics when somebody looks.

prometheus_client keeps each number behind a lock, for threads that we do not have: a count costs 0.6 µs and
an observation 2, a dozen times per request. A loop has one thread, so an addition is enough. What goes out is
still made by the library.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Numbers: TypeAlias = defaultdict[tuple[str | int, ...], int]
"""A number for each combination of label values."""


class Distribution:
    """How often something took how long."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.total += seconds


class Distributions(dict[tuple[str, ...], Distribution]):
    """A `Distribution` for each combination of label values; *bounds* are in seconds, rising."""

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self.bounds = bounds

    def __missing__(self, labels: tuple[str, ...]) -> Distribution:
        made = self[labels] = Distribution(self.bounds)
        return made


class Tallies(Collector):
    """Makes tallies, and shows them to Prometheus."""

    def __init__(self) -> None:
        self._families: list[Callable[[], Metric]] = []

    def counter(self, name: str, told: str, labels: Sequence[str]) -> Numbers:
        """Numbers that only grow."""
        return self._numbers(lambda: CounterMetricFamily(name, told, labels=labels))

    def gauge(self, name: str, told: str, labels: Sequence[str]) -> Numbers:
        """Numbers that go up and down."""
        return self._numbers(lambda: GaugeMetricFamily(name, told, labels=labels))

    def histogram(
        self, name: str, told: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> Distributions:
        """Distributions over the *bounds*."""
        kept = Distributions(bounds)
        names = [*map(floatToGoString, bounds), "+Inf"]

        def family() -> Metric:
            family = HistogramMetricFamily(name, told, labels=labels)
            for key, one in kept.items():
                family.add_metric(key, list(zip(names, accumulate(one.counts), strict=True)), one.total)
            return family

        self._families.append(family)
        return kept

    def collect(self) -> Iterable[Metric]:
        """Everything, as it stands."""
        return [family() for family in self._families]

    describe = collect  # a registry asks for names when it is told of us, and finds no numbers yet

    def _numbers(self, make: Callable[[], CounterMetricFamily | GaugeMetricFamily]) -> Numbers:
        kept: Numbers = defaultdict(int)

        def family() -> Metric:
            family = make()
            for key, number in kept.items():
                family.add_metric([*map(str, key)], number)
            return family

        self._families.append(family)
        return kept
