"""Servers over one upstream while they are measured, and one window of load with all that was read beside it.

A window during which others used more than a third of a core is measured again, once, and marked if that
was no better. Our own server has to be back to base after each: nothing in flight once nobody asks.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.base import wait_for_base
from benchmarks.generator import Load, Seen, generate
from benchmarks.processes import Cores, Process, busy_seconds, get, our_seconds
from benchmarks.servers import Server, upstream

NOISY = 1 / 3
"""Cores' worth of other people's work from which on a window is measured again."""
CALM = 0.75
"""Seconds between windows, so that calls that were cancelled or drained have ended."""


@dataclass(frozen=True)
class Place:
    """A server that answers at *url*, over the upstream at *behind*."""

    server: Server
    url: str
    process: Process
    behind: str


@dataclass(frozen=True)
class Window:
    """
    One window of load: what was asked, what the callers saw, and what it cost the server.

    Attributes:
        cpu_us: CPU per answer, in microseconds.
        opened: connections opened to the upstream, per answer.
        foreign: cores' worth of other people's work meanwhile.
        left: what our server had still in flight when nobody asked any more.
    """

    server: str
    load: Load
    seen: Seen
    cpu_us: float
    rss_mb: float
    peak_mb: float
    opened: float
    foreign: float
    left: dict[str, float]

    @property
    def noisy(self) -> bool:
        """Whether somebody else may be in the figures."""
        return self.foreign > NOISY


@dataclass
class Bench:
    """
    Where all of it runs, and how much time there is for measuring again.

    Args:
        patience: seconds that repeated windows may take in all; a busy machine must not keep us for ever.
    """

    cores: Cores
    patience: float = 240.0

    @contextlib.contextmanager
    def places(
        self, servers: Sequence[Server], latency: str = "0", failing: bool = False
    ) -> Iterator[list[Place]]:
        """All *servers* over one upstream, while the block runs."""
        with contextlib.ExitStack() as stack:
            behind, process = upstream(self.cores, latency, failing)
            stack.callback(process.stop)
            process.wait_for(f"{behind}/stats")
            found = []
            for server in servers:
                url, process = server.start(f"{behind}/api/work", self.cores.server)
                stack.callback(process.stop)
                found.append(Place(server, url, process, behind))
            for place in found:
                place.process.wait_for(place.url + place.server.ready)
            yield found

    def measure(self, place: Place, load: Load) -> Window:
        """One window, or the quieter of two."""
        window = _measure(place, load, self.cores)
        if window.noisy and self.patience > 0:
            print("~", end="", flush=True, file=sys.stderr)
            began = time.monotonic()
            window = min(window, _measure(place, load, self.cores), key=lambda one: one.foreign)
            self.patience -= time.monotonic() - began
        print(".", end="", flush=True, file=sys.stderr)
        return window


def _measure(place: Place, load: Load, cores: Cores) -> Window:
    accepted, busy, ours = _accepted(place), busy_seconds(), our_seconds()
    cpu, started = place.process.cpu_seconds(), time.monotonic()
    seen = generate(place.url, load, cores.load)
    elapsed = time.monotonic() - started
    spent = place.process.cpu_seconds() - cpu
    foreign = max(0.0, busy_seconds() - busy - (our_seconds() - ours)) / elapsed
    now, peak = place.process.memory_mb()
    opened = _accepted(place) - accepted
    time.sleep(CALM)
    answers = seen.answered or 1
    # A server of several workers tells of one at a time.
    single = place.server.ours and place.server.environ["WORKERS"] == "1"
    left = wait_for_base(place.url) if single else {}
    return Window(
        *(place.server.name, load, seen, spent / answers * 1e6, now, peak),
        *(opened / answers, foreign, left),
    )


def _accepted(place: Place) -> int:
    """Connections that the upstream has taken so far."""
    return int(json.loads(get(f"{place.behind}/stats"))["accepted"])


def wrong(window: Window) -> list[str]:
    """What our server must never do, in words: leak, or answer what no contract knows."""
    found = []
    if window.left:
        found.append(f"not back to base: {dict(window.left)}")
    odd = {status: n for status, n in window.seen.status.items() if status not in ("200", "500", "503")}
    if odd:
        found.append(f"statuses that are none of the contract's: {odd}")
    name = f"{window.server} {'+'.join(window.load.routes)}"
    return [f"{name}: {what}" for what in found]
