"""Arithmetic on what was measured: ratios within rounds, and the time until all is well again."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """
    The median of the ratios of figures that were taken in the same round.

    What disturbs a round disturbs both; so this says more than the ratio of two medians.

    Raises:
        ValueError: there are not as many of the one as of the other, or none.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds against {len(theirs)}")
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def rotated(names: Sequence[str], round_number: int) -> list[str]:
    """The order of a round: A B C, B C A, C A B, so that nobody is always the one who comes after A."""
    start = round_number % len(names)
    return [*names[start:], *names[:start]]


def good_share(second: Mapping[str, int]) -> float:
    """Of the requests that were due in one second; 1 when there were none."""
    return second["good"] / second["sent"] if second["sent"] else 1.0


def recovery(series: Sequence[Mapping[str, int]], step_end: int, usual: float = 1.0) -> float | None:
    """
    Seconds from *step_end* until 99 % of the *usual* share are good, and stay so; None if that never comes.

    A second in which it is not so counts whole.
    """
    after = [good_share(second) >= 0.99 * usual for second in series[step_end:]]
    if not after or not after[-1]:
        return None
    bad = [number for number, well in enumerate(after) if not well]
    return float(bad[-1] + 1) if bad else 0.0
