"""``python -m benchmarks.lateness``: does any answer reach its caller later than the timeout and 10 ms?

A closed loop of callers on raw sockets, lean enough not to be late itself. Each answer is timed at the
caller, from when the last byte of the request is sent to when the last byte of the answer is read. The
client watches its own loop: a late answer that came while the loop was held up is counted apart, because
then nobody knows who was late.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import random
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import uvloop

from benchmarks.base import wait_for_base
from benchmarks.processes import (
    BenchmarkError,
    Simulator,
    assign_cores,
    end_on_sigterm,
    pin,
    running,
)
from benchmarks.table import render

ROUTES = ("all", "first", "smart", "within-timeout")
UNMET = {"all": 500, "first": 500, "smart": 503}
"""The status with which each route says that it has no answer: right behaviour. The others have none."""
MARGIN = 0.010
STALL = 0.005
"""Seconds of our own loop's lag that spoil a measurement."""
TICK = 0.005

clock = time.perf_counter


@dataclass(slots=True)
class Answer:
    """One answer at its caller; *sent* and *took* in seconds."""

    status: int
    timeout: float
    sent: float
    took: float

    @property
    def late(self) -> bool:
        """Whether it came after the timeout and the margin."""
        return self.took > self.timeout + MARGIN


@dataclass(slots=True)
class Seen:
    """All that the callers of one window saw."""

    answers: list[Answer] = field(default_factory=list)
    broken: int = 0
    stalls: list[tuple[float, float]] = field(default_factory=list)
    worst_lag: float = 0.0

    def spoilt(self, answer: Answer) -> bool:
        """Whether our own loop was held up while *answer* came."""
        came = answer.sent + answer.took
        return any(since <= came <= until + TICK for since, until in self.stalls)


@dataclass(frozen=True)
class Plan:
    """What is asked: *timeouts* is the range of milliseconds from which each request draws one."""

    url: str
    route: str
    callers: int
    timeouts: tuple[int, int]
    seconds: float
    ramp: float


class Caller:
    """
    One caller on one connection: asks, reads the answer, asks again, until told to stop.

    It sends and reads on the socket itself: a transport would put its writes off to the end of the loop's
    turn, and when 200 callers begin at once, the last of them would seem to have asked long before it did.
    """

    def __init__(self, plan: Plan, seen: Seen, rng: random.Random, sock: socket.socket) -> None:
        self._plan, self._seen, self._rng, self._sock = plan, seen, rng, sock
        self._host = urlsplit(plan.url).netloc
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._missing = -1
        self._answer = Answer(0, 0.0, 0.0, 0.0)
        self._until = 0.0
        self.finished: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(sock, self._read)

    def begin(self, until: float) -> None:
        """Ask, and again after each answer that comes before *until*."""
        self._until = until
        self._ask()

    def end(self, *, broken: bool) -> None:
        """Close the connection."""
        if not self.finished.done():
            self._loop.remove_reader(self._sock)
            self._sock.close()
            self._seen.broken += broken
            self.finished.set_result(None)

    def _ask(self) -> None:
        timeout = self._rng.randint(*self._plan.timeouts)
        target = f"/api/{self._plan.route}?timeout={timeout}"
        try:
            self._sock.send(f"GET {target} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode())
        except OSError:
            self.end(broken=True)
        self._answer = Answer(0, timeout / 1000, clock(), 0.0)

    def _read(self) -> None:
        try:
            data = self._sock.recv(65536)
        except OSError:
            data = b""
        now = clock()
        if not data:
            self.end(broken=True)
        elif self._complete(data):
            self._answer.took = now - self._answer.sent
            self._seen.answers.append(self._answer)
            if now < self._until:
                self._ask()
            else:
                self.end(broken=False)

    def _complete(self, data: bytes) -> bool:
        """Take in *data*; whether it was the last of an answer."""
        if self._missing < 0:
            self._buffer += data
            head, end, data = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return False
            self._buffer = b""
            self._answer.status = int(head[9:12])
            self._missing = int(head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        self._missing -= len(data)
        if self._missing > 0:
            return False
        self._missing = -1
        return True


def connect(url: str) -> socket.socket:
    """A connection, ready to be asked on."""
    parts = urlsplit(url)
    sock = socket.create_connection((parts.hostname, parts.port or 80), timeout=5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    return sock


def watch(seen: Seen, until: float) -> None:
    """Note each time that our own loop was held up, until *until*."""
    loop = asyncio.get_running_loop()

    def tick(due: float) -> None:
        now = clock()
        seen.worst_lag = max(seen.worst_lag, now - due)
        if now - due > STALL:
            seen.stalls.append((due, now))
        if now < until:
            loop.call_later(TICK, tick, now + TICK)

    loop.call_later(TICK, tick, clock() + TICK)


async def ask(plan: Plan) -> Seen:
    """Connect every caller, let them all ask at once or over the ramp, and wait for the last answer."""
    loop, seen, rng = asyncio.get_running_loop(), Seen(), random.Random(1)
    callers = [Caller(plan, seen, rng, connect(plan.url)) for _ in range(plan.callers)]
    await asyncio.sleep(0.2)  # the server has accepted them all, and our loop is calm
    started = clock()
    until = started + plan.seconds
    longest = plan.timeouts[1] / 1000
    watch(seen, until + longest)
    for number, caller in enumerate(callers):
        loop.call_later(plan.ramp * number / plan.callers, caller.begin, until)
    await asyncio.wait([caller.finished for caller in callers], timeout=plan.seconds + longest + 10)
    for caller in callers:
        caller.end(broken=True)  # does nothing to those that have ended
    for answer in seen.answers:
        answer.sent -= started
    seen.stalls = [(since - started, end - started) for since, end in seen.stalls]
    return seen


TITLES = (
    *("route", "timeout", "count", "req/s", "statuses", "p50", "p99", "max over", "late", "spoilt"),
    *("broken", "own lag", "stalls", "late when sent"),
)


def row(plan: Plan, seen: Seen) -> tuple[object, ...]:
    """One line of the table; times in ms. *max over* is the most that an answer came after its timeout."""
    took = sorted(answer.took * 1000 for answer in seen.answers) or [0.0]
    late = [answer for answer in seen.answers if answer.late]
    spoilt = sum(seen.spoilt(answer) for answer in late)
    statuses = sorted(Counter(answer.status for answer in seen.answers).items())
    over = max(((answer.took - answer.timeout) * 1000 for answer in seen.answers), default=0.0)
    return (
        plan.route,
        str(plan.timeouts[0]) if len(set(plan.timeouts)) == 1 else "-".join(map(str, plan.timeouts)),
        *(len(took), len(took) / plan.seconds, " ".join(f"{status}:{count}" for status, count in statuses)),
        *(took[len(took) // 2], took[int(len(took) * 0.99)], over, len(late) - spoilt, spoilt, seen.broken),
        *(seen.worst_lag * 1000, len(seen.stalls)),
        f"{min(a.sent for a in late):.2f}-{max(a.sent for a in late):.2f} s" if late else "",
    )


def wrong(plan: Plan, seen: Seen) -> list[str]:
    """What breaks the promise, in words."""
    late = sum(answer.late and not seen.spoilt(answer) for answer in seen.answers)
    odd = sum(answer.status not in (200, UNMET.get(plan.route, 200)) for answer in seen.answers)
    left = wait_for_base(plan.url)
    return [
        f"{plan.route}: {what}"
        for what, is_so in (
            (f"{late} answers later than timeout + 10 ms", late),
            (f"{odd} answers with a status that is none of its contract's", odd),
            (f"{seen.broken} broken connections", seen.broken),
            (f"not back to base: {left}", left),
            ("no answers at all", not seen.answers),
        )
        if is_so
    ]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lateness",
        description="Does any answer reach its caller later than the timeout and 10 ms?",
    )
    add = parser.add_argument
    add("--url", help="a server that runs; without it one is started")
    add("--callers", type=int, default=200, help="(200)")
    add("--timeout", type=int, default=500, metavar="MS", help="(500)")
    add("--timeout-max", type=int, metavar="MS", help="each request draws a timeout up to this")
    add("--duration", type=float, default=10.0, metavar="S", help="seconds per route (10)")
    add(
        "--ramp",
        type=float,
        default=0.0,
        metavar="S",
        help="callers start over these seconds (0: all at once)",
    )
    add("--routes", nargs="+", choices=ROUTES, default=ROUTES, metavar="ROUTE", help=", ".join(ROUTES))
    add("--separate", action="store_true", help="the simulator in a process of its own, not in the server")
    add("--latency", default="uniform:100-600", metavar="FORM", help="the simulator's (uniform:100-600)")
    arguments = parser.parse_args(argv)
    if min(arguments.callers, arguments.timeout, arguments.duration) <= 0:
        parser.error("--callers, --timeout and --duration must be positive")
    return arguments


def run(url: str, arguments: argparse.Namespace) -> int:
    """Every route in turn; 1 when the promise was broken."""
    rows, broken = [], []
    timeouts = (arguments.timeout, max(arguments.timeout, arguments.timeout_max or 0))
    for route in arguments.routes:
        plan = Plan(url.rstrip("/"), route, arguments.callers, timeouts, arguments.duration, arguments.ramp)
        gc.disable()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            seen = runner.run(ask(plan))
        gc.enable()
        rows.append(row(plan, seen))
        broken += wrong(plan, seen)
    print(render(TITLES, rows))
    print("\n".join(broken) or "No answer was late, none was wrong, and nothing was left in flight.")
    return 1 if broken else 0


def main(argv: list[str] | None = None) -> int:
    """Measure; 1 when the promise was broken, 2 when it could not be measured."""
    arguments = parse(argv)
    end_on_sigterm()
    cores = assign_cores()
    pin(cores.load)
    try:
        with contextlib.ExitStack() as stack:
            url = arguments.url
            if url is None:
                model = Simulator(arguments.latency)
                own = stack.enter_context(running(model, cores, embedded=not arguments.separate))
                url = own.url
            return run(url, arguments)
    except (BenchmarkError, OSError) as error:
        print(f"lateness: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
