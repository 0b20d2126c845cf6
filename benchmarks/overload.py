"""``python -m benchmarks.overload``: what a server that is asked for more than it can do still gets done.

First its capacity, in a closed loop; then requests come at multiples of it, at random instants, no matter how
it fares. Each is timed at the caller from when it was *due* to be sent; a caller gives up when its timeout
and 10 ms are over. Server on one core, callers and upstream on the other: raw sockets, so that the callers
keep up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field

import uvloop

from benchmarks.lateness import MARGIN, connect
from benchmarks.processes import BenchmarkError, Simulator, assign_cores, end_on_sigterm, pin, running
from benchmarks.table import render

CONNECTIONS = 1000
TITLES = ("shedding", "load", "good %", "late", "other", "unanswered", "refused", "p50", "p99", "behind")

clock = time.perf_counter


@dataclass(slots=True)
class Seen:
    """What the callers of one window saw; times in seconds."""

    good: int = 0
    late: int = 0
    refused: list[float] = field(default_factory=list)
    other: int = 0
    unanswered: int = 0
    behind: float = 0.0
    """The most by which we were late to send."""


class Caller:
    """One connection on which requests are made one at a time, each with its own due time."""

    def __init__(self, sock: socket.socket, host: str, timeout: float, idle: deque[Caller]) -> None:
        self._sock, self._idle, self._timeout = sock, idle, timeout
        target = f"/api/all?timeout={round(timeout * 1000)}"
        self._raw = f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self.seen = Seen()
        self.due: float | None = None
        asyncio.get_running_loop().add_reader(sock, self._read)

    def ask(self, due: float, seen: Seen) -> None:
        """Send the request that was due at *due*."""
        self.due, self.seen = due, seen
        self._sock.send(self._raw)

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except OSError:
            data = b""
        if self.due is None or not data:
            asyncio.get_running_loop().remove_reader(self._sock)
            return
        took, seen, self.due = clock() - self.due, self.seen, None
        status = data[9:12]
        if status == b"503" and b'"overloaded"' in data:
            seen.refused.append(took)
        elif status == b"200":
            seen.late += took > self._timeout + MARGIN
            seen.good += took <= self._timeout + MARGIN
        else:
            seen.other += 1
        self._idle.append(self)


async def flood(url: str, rate: float, seconds: float, timeout: float) -> Seen:
    """Requests at *rate* per second for *seconds*, at random instants."""
    idle: deque[Caller] = deque()
    host = url.removeprefix("http://")
    callers = [Caller(connect(url), host, timeout, idle) for _ in range(CONNECTIONS)]
    idle.extend(callers)
    await asyncio.sleep(0.1)
    seen, rng = Seen(), random.Random(1)
    due = started = clock()
    while due < started + seconds:
        now = clock()
        while due <= now:
            seen.behind = max(seen.behind, now - due)
            if idle:
                idle.popleft().ask(due, seen)
            else:
                seen.unanswered += 1  # every connection waits: the server has left them all without an answer
            due += rng.expovariate(rate)
        await asyncio.sleep(0.001)
    await asyncio.sleep(timeout + 0.1)
    seen.unanswered += sum(caller.due is not None for caller in callers)
    for caller in callers:
        caller.due = None
        asyncio.get_running_loop().remove_reader(caller._sock)
        caller._sock.close()
    return seen


async def capacity(url: str, seconds: float, callers: int = 150) -> float:
    """Answers per second to callers who ask again at once."""
    idle: deque[Caller] = deque()
    host = url.removeprefix("http://")
    everybody = [Caller(connect(url), host, 2.0, idle) for _ in range(callers)]
    idle.extend(everybody)
    seen, started = Seen(), clock()
    while clock() < started + seconds:
        while idle:
            idle.popleft().ask(clock(), seen)
        await asyncio.sleep(0.001)
    good = seen.good / seconds
    await asyncio.sleep(0.5)
    for caller in everybody:
        asyncio.get_running_loop().remove_reader(caller._sock)
        caller._sock.close()
    return good


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=main.__doc__)
    add = parser.add_argument
    add("--duration", type=float, default=3.0, metavar="S", help="seconds for each line (3)")
    add("--timeout", type=int, default=300, metavar="MS", help="(300)")
    add("--loads", type=float, nargs="+", default=[0.8, 2, 5], metavar="X", help="of the capacity (0.8 2 5)")
    add("--shedding", nargs="+", default=["on", "off"], choices=["on", "off"], help="(on off)")
    arguments = parser.parse_args(argv)
    end_on_sigterm()
    cores = assign_cores()
    pin(cores.load)
    rows: list[tuple[object, ...]] = []
    full = 0.0
    gc.disable()
    try:
        for shedding in ("off", *arguments.shedding):  # those who ask again at once would be refused
            model = Simulator("constant:50", 0, 0, 0)
            os.environ["LOAD_SHEDDING"] = shedding  # which the server inherits
            with running(model, cores) as own, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                if not full:
                    full = runner.run(capacity(own.url, 2.0))
                    continue
                for load in arguments.loads:
                    seen = runner.run(
                        flood(own.url, load * full, arguments.duration, arguments.timeout / 1000)
                    )
                    rows.append(row(shedding, load, full, arguments.duration, seen))
                    time.sleep(2)
    except (BenchmarkError, OSError) as error:
        print(f"overload: {error}", file=sys.stderr)
        return 2
    print(f"capacity: {full:.0f} requests per second")
    print(render(TITLES, rows))
    return 0


def row(shedding: str, load: float, full: float, seconds: float, seen: Seen) -> tuple[object, ...]:
    """One line of the table; *p50* and *p99* are of the refusals, in ms."""
    took = sorted(one * 1000 for one in seen.refused) or [0.0]
    share = 100 * seen.good / seconds / full
    counts = (seen.late, seen.other, seen.unanswered, len(seen.refused))
    return (
        shedding,
        load,
        share,
        *counts,
        took[len(took) // 2],
        took[int(len(took) * 0.99)],
        seen.behind * 1000,
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
