"""How many requests may be under way at once, found by watching how late the event loop is.

Overload is our own queue, not an upstream that takes its time: a request that waits for its upstream costs
nothing, so time alone says nothing. A late loop does. While it is late the limit shrinks by a share, at once;
while it is punctual and the limit is needed, it grows. Plain code that knows no loop and no clock: it is told
how late the loop was, and whoever runs it can run it in a simulation.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from strategies import Verdict
from upstream.admission import Permit, Refusal

RETRY_AFTER = (1, 2, 3)
"""Seconds after which a caller may come back, drawn by lot, so that those refused together come apart."""


@dataclass(frozen=True, slots=True)
class LimiterOptions:
    """
    Args:
        start: the limit at first. High: from 64 a slow upstream alone made a simulated server refuse 3 %.
        least, most: its range. With a few it always goes on trying.
        late: seconds of lag from which on the limit shrinks. Of 5, 10, 20 and 40 ms, 10 kept timeouts of
            200 ms and more best.
        punctual: seconds of lag below which it may grow.
        shrink, grow: by which factor, at each sample.
        needed: the share of the limit that must be in use for it to grow; one that nobody needs proves
            nothing.

    Each sample counts once. Smoothed, one stall of 40 ms (a neighbour on the core) cut the limit four times:
    with two such stalls a second a simulated server at 70 % refused 9 % of its requests instead of 4 %, and
    gained nothing under load.
    """

    start: float = 1000.0
    least: float = 8.0
    most: float = 5000.0
    late: float = 0.010
    punctual: float = 0.006
    shrink: float = 0.85
    grow: float = 1.10
    needed: float = 0.7


class InFlightLimiter:
    """
    The `upstream.admission.AdmissionController` of the requests that come in.

    All permits are one and the same object, which costs nothing to give; so each must be settled exactly
    once, by whoever it was given to.

    Args:
        rng: the lot for ``Retry-After``.
    """

    def __init__(self, rng: random.Random, options: LimiterOptions | None = None) -> None:
        self._options = options or LimiterOptions()
        self._random = rng.random
        self._refusals = refusals("limit", "As many requests as it can take are under way.")
        self._permit: Permit = _Place(self)
        self.limit = self._options.start
        self.in_flight = 0
        self.lag = 0.0
        """Seconds, at the last sample."""

    def admit(self, now: float) -> Permit | Refusal:
        """One more, if there is room. *now* does not matter: time is in the lag."""
        if self.in_flight >= self.limit:
            return self._refusals[int(self._random() * len(RETRY_AFTER))]
        self.in_flight += 1
        return self._permit

    def sample(self, lag: float) -> None:
        """The loop was *lag* seconds late. To be told every 20 ms (`server.loop_lag.PERIOD`)."""
        options = self._options
        self.lag = lag
        if lag > options.late:
            self.limit = max(options.least, min(self.limit, self.in_flight) * options.shrink)
        elif lag < options.punctual and self.in_flight >= options.needed * self.limit:
            self.limit = min(options.most, self.limit * options.grow + 1)


class _Place:
    """The permit that everybody gets."""

    __slots__ = ("_limiter",)

    def __init__(self, limiter: InFlightLimiter) -> None:
        self._limiter = limiter

    def settle(self, verdict: Verdict, now: float) -> None:
        """The request is answered, well or badly: it is not its outcome that we watch."""
        self._limiter.in_flight -= 1


def refusals(reason: str, detail: str) -> tuple[Refusal, ...]:
    """One for each number of seconds in `RETRY_AFTER`, made beforehand: a refusal has to be cheap."""
    return tuple(Refusal(reason, seconds, detail) for seconds in RETRY_AFTER)
