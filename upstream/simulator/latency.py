"""How long a simulated upstream takes, from one line of text."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TypeAlias

Latency: TypeAlias = Callable[[random.Random], float]
"""Draws one latency, in seconds."""

FORMS = "constant:MS, uniform:MIN-MAX or lognormal:MEAN,SD (milliseconds)"


def parse_latency(text: str) -> Latency:
    """
    A latency distribution from ``constant:50``, ``uniform:100-600`` or ``lognormal:5,2``, in milliseconds.

    Raises:
        ValueError: the text has none of these forms; the message gives them.
    """
    kind, _, rest = text.partition(":")
    try:
        if kind == "constant":
            fixed = _milliseconds(rest)
            return lambda rng: fixed
        if kind == "uniform":
            low, high = map(_milliseconds, rest.split("-"))
            if low <= high:
                return lambda rng: rng.uniform(low, high)
        if kind == "lognormal":
            mean, deviation = map(_milliseconds, rest.split(","))
            spread = math.log(1 + (deviation / mean) ** 2)
            centre = math.log(mean) - spread / 2
            return lambda rng: rng.lognormvariate(centre, math.sqrt(spread))
    except (ValueError, ArithmeticError):
        pass
    raise ValueError(f"latency must be {FORMS}, not {text[:40]!r}")


def _milliseconds(text: str) -> float:
    seconds = float(text) / 1000
    if not 0 <= seconds < 3600:
        raise ValueError(text)
    return seconds
