"""The server's own metrics, and whether it is back to base: nothing in flight once nobody asks.

A server that answers on time but forgets its losers would look well in every other column.
"""

from __future__ import annotations

import time

from benchmarks.processes import get

IN_FLIGHT = ("hedgerow_requests_in_flight", "hedgerow_attempts_in_flight", "hedgerow_losers")


def scrape(url: str) -> dict[str, float]:
    """``GET /metrics``: each sample by its name with labels."""
    lines = [line for line in get(f"{url}/metrics").splitlines() if line and not line.startswith("#")]
    return {name: float(number) for name, _, number in (line.rpartition(" ") for line in lines)}


def total(samples: dict[str, float], name: str, label: str = "") -> float:
    """The sum over the samples of one metric whose labels contain *label*."""
    return sum(number for key, number in samples.items() if key.partition("{")[0] == name and label in key)


def wait_for_base(url: str, within: float = 3.0) -> dict[str, float]:
    """What is still in flight, by metric: empty as soon as nothing is, or what there is after *within* s."""
    until = time.monotonic() + within
    while True:
        samples = scrape(url)
        left = {name: amount for name in IN_FLIGHT if (amount := total(samples, name))}
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.05)
