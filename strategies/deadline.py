"""When an answer is due: one instant on the loop's clock, stamped once on arrival and handed on.

An instant, not a duration: a duration goes stale the moment it is passed on. It knows no clock; whoever
asks brings ``now``. The idea of an ordered instant is finagle's ``Deadline``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True, order=True, unsafe_hash=True)
class Deadline:
    """
    An instant in seconds of the loop's clock. Ordered, so that combining two is ``min(a, b)``.
    """

    at: float

    @classmethod
    def after(cls, seconds: float, *, now: float) -> Deadline:
        """The instant *seconds* from *now*."""
        return cls(now + seconds)

    @classmethod
    def never(cls) -> Deadline:
        """Later than every other deadline."""
        return cls(math.inf)

    def remaining(self, now: float) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - now)

    def expired(self, now: float) -> bool:
        """Whether nothing is left."""
        return now >= self.at

    def reserve(self, seconds: float) -> Deadline:
        """An earlier deadline that leaves *seconds* for what comes after, such as writing the answer."""
        return Deadline(self.at - seconds)
