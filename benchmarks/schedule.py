"""The rates of an open loop, as people write them: ``0.5x 5s, 10x 5s, 0.5x 5s``, or ``2000 10s``.

A rate with an ``x`` is a multiple of the capacity that was measured; one without is requests per second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PART = re.compile(r"\s*(\d+(?:\.\d+)?)(x?)\s+(\d+(?:\.\d+)?)s\s*")


@dataclass(frozen=True)
class Phase:
    """*rate* requests per second, for *seconds*."""

    rate: float
    seconds: float


def parse_schedule(text: str, capacity: float) -> tuple[Phase, ...]:
    """
    The phases of *text*; *capacity* in requests per second.

    Raises:
        ValueError: a part that is not like ``10x 5s``, or a rate or a time of nothing.
    """
    phases = []
    for part in text.split(","):
        found = PART.fullmatch(part)
        if found is None:
            raise ValueError(f"{part.strip()!r} is not like '10x 5s' or '2000 5s'")
        rate = float(found[1]) * (capacity if found[2] else 1)
        phases.append(Phase(rate, float(found[3])))
        if not (phases[-1].rate and phases[-1].seconds):
            raise ValueError(f"{part.strip()!r} is no load")
    return tuple(phases)
