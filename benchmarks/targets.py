"""What the figures should be, and by how much they are not. The only room that knows the goals."""

from __future__ import annotations

from dataclasses import dataclass

CPU_TO_GO = {"smart": 1.0, "all": 1.0, "first": 0.7}
"""CPU per request, as a multiple of the Go server's in the same round: no more."""
IN_A_CROWD = {"first": 7000.0, "all": 3000.0, "smart": 3500.0}
"""Good answers per second at 4000 callers, on a machine where Go's smart costs `GO_SMART`: no less."""
GO_SMART = 54.0
"""Microseconds. Twice that is a machine half as fast, which need do half as much."""
CROWD = 4000
MEMORY = 120.0
"""MB of resident memory at 4000 callers."""
OPENED = 0.1
"""Connections opened to the upstream per request on first, where the loser must not cost its connection."""
LATE_SHARE = 0.0
"""Of all requests, those answered later than timeout + 10 ms, at any number of callers."""
SERVED = {0.7: 0.99}
"""Of what is asked, the share that is served, by the load as a multiple of the capacity: no less."""
KEPT = {2.0: 0.95, 5.0: 0.88, 10.0: 0.75}
"""Goodput as a share of the capacity, by the load as a multiple of it: no less."""
LATE_SUCCESSES = 0
"""Late 200s under overload: work that was done for nobody."""
REFUSED_P99 = 50.0
"""Milliseconds until a refusal has arrived."""
RECOVERED = 2.0
"""Seconds after a step down in load until all is as before."""
GROWTH = 5.0
"""MB of resident memory that a soak may add."""


@dataclass(frozen=True)
class Judged:
    """A figure beside its target. *value* is None when it could not be had, which meets no target."""

    what: str
    value: float | None
    limit: float
    at_most: bool
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the figure is as good as the target, or better."""
        if self.value is None:
            return False
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        """In words: ``smart: 0.93, at most 1: met``."""
        bound = f"at {'most' if self.at_most else 'least'} {self._text(self.limit)}"
        if self.value is None:
            return f"MISSED  {self.what}: never, {bound}"
        if self.met:
            return f"met     {self.what}: {self._text(self.value)}, {bound}"
        distance = self._text(abs(self.value - self.limit))
        return f"MISSED  {self.what}: {self._text(self.value)}, {bound}: missed by {distance}"

    def _text(self, number: float) -> str:
        if self.unit == "%":
            return f"{number * 100:.3g} %"
        return f"{number:.3g}{f' {self.unit}' if self.unit else ''}"


def at_most(what: str, value: float | None, limit: float, unit: str = "") -> Judged:
    """*value* should not be above *limit*."""
    return Judged(what, value, limit, at_most=True, unit=unit)


def at_least(what: str, value: float | None, limit: float, unit: str = "") -> Judged:
    """*value* should not be below *limit*."""
    return Judged(what, value, limit, at_most=False, unit=unit)
