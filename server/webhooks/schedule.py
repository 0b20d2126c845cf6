"""When a message is tried again: the specification's schedule, over a little more than three days.

Plain arithmetic. It neither waits nor remembers; clock and luck come by argument.
"""

from __future__ import annotations

import random

DELAYS = (0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds from the end of one attempt to the start of the next; the first is at once."""
JITTER = 0.1
"""The part of a delay that luck may add, so that what failed together does not come back together."""


def next_attempt(made: int, now: float, rng: random.Random, asked: float = 0.0) -> float | None:
    """
    When to make the next attempt, on the clock of *now*; None if there is none.

    It is never earlier than the schedule says, nor than the receiver asked for.

    Args:
        made: how many attempts were made; 0 for a new message, and for a replay by hand.
        now: the end of the last one, in seconds.
        rng: luck.
        asked: seconds that the receiver asked to be left alone (`Retry.after`).
    """
    if made >= len(DELAYS):
        return None
    return now + max(DELAYS[made], asked) * (1 + JITTER * rng.random())
