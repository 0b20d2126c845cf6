"""``python -m benchmarks.events``: what parallel fetch and the circuit breaker of the event API are worth.

First the time of 1, 10 and 50 events, for one caller and for many at once: the goal is that many events take
no more than 1.2 times as long as one. Then an outage of the event service, once with the breaker and once
without: how many calls still reach the service, and how long callers wait to hear that there is no answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import uvloop

from benchmarks.base import wait_for_base
from benchmarks.callers import Callers, Reply
from benchmarks.processes import (
    RESULTS,
    ROOT,
    BenchmarkError,
    Cores,
    Process,
    assign_cores,
    busy_seconds,
    end_on_sigterm,
    free_port,
    get,
    pin,
    python,
)
from benchmarks.table import render

T = TypeVar("T")

USERS = {1: "2", 10: "10", 50: "50"}
"""A user by the number of its events."""
GOAL = 1.2
"""Times what one event takes: no more than that for all of a user's."""
RATE = 20
"""Calls per second during an outage."""
NOISY = 0.33
"""Cores' worth of other people's work beyond which a row is marked: it should be measured again."""
OUTAGES = (("answers 500", 1000), ("hangs", 1000), ("hangs", 2000))
"""What the service does, and the callers' timeout in ms."""


@dataclass(frozen=True)
class Place:
    """A server at *url* over an event service of its own."""

    url: str
    service_url: str
    server: Process
    service: Process

    def calls(self) -> int:
        """Calls that have reached the service so far."""
        return int(get(f"{self.service_url}/benchmark/calls"))

    def cpu(self) -> tuple[float, float, float]:
        """Seconds of CPU so far: the server's, the service's, and our own."""
        return self.server.cpu_seconds(), self.service.cpu_seconds(), time.process_time()

    def order(self, path: str) -> None:
        """Tell the service how to behave from now on."""
        request = urllib.request.Request(self.service_url + path, method="POST")
        urllib.request.urlopen(request, timeout=2).close()


@contextlib.contextmanager
def places(tables: Sequence[Path | None], cores: Cores) -> Iterator[list[Place]]:
    """One server per route table (None for its own), all started together, while the block runs."""
    with contextlib.ExitStack() as stack:
        found = []
        for number, table in enumerate(tables):
            service_url, url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
            service = Process(
                python("benchmarks.event_upstream", "--port", service_url.rpartition(":")[2]),
                f"events-upstream-{number}",
                core=cores.simulator,
            )
            stack.callback(service.stop)
            environ = {
                **{"ACCESS_LOG": "off", "LOG_LEVEL": "warning", "DRAIN_DELAY_MS": "0", "HOST": "127.0.0.1"},
                "PORT": url.rpartition(":")[2],
                "EVENT_API_BASE_URL": service_url,
                "WORK_API_URL": f"{service_url}/api/work",
            }
            config = ["--config", str(table)] if table else []
            server = Process(python("server", *config), f"events-server-{number}", environ, cores.server)
            stack.callback(server.stop)
            found.append(Place(url, service_url, server, service))
        for place in found:
            place.service.wait_for(f"{place.service_url}/benchmark/calls")
            place.server.wait_for(f"{place.url}/ready")
        yield found


@dataclass(frozen=True)
class Fetched:
    """What *callers* at once saw, who each asked for all of a user's *events*. Times in ms."""

    callers: int
    events: int
    answers: int
    first: float
    p50: float
    p95: float
    worst: float
    calls: int
    server_cpu: float
    service_cpu: float
    foreign: float
    wrong: list[str] = field(default_factory=list)


async def ask_together(url: str, target: str, callers: int, rounds: int) -> list[list[Reply]]:
    """Each caller asks once per round, all in the same instant. The first round opens the connections."""
    asking = Callers(url)
    replies = []
    for _ in range(rounds):
        await asking.connect(callers)
        await asyncio.sleep(0.2)  # whatever the last round left is over
        replies.append(await asyncio.gather(*(asking.get(target) for _ in range(callers))))
    asking.close()
    return replies


def fetch(place: Place, callers: int, events: int, rounds: int) -> Fetched:
    """One row of the first table; the first of *rounds* + 1 is shown apart."""
    target = f"/getEventsByUserId/{USERS[events]}"
    calls, before, busy, started = place.calls(), place.cpu(), busy_seconds(), time.monotonic()
    first, *replies = _run(ask_together(place.url, target, callers, rounds + 1))
    server, service, ours = (after - was for after, was in zip(place.cpu(), before, strict=True))
    foreign = max(0.0, busy_seconds() - busy - server - service - ours) / (time.monotonic() - started)
    calls = place.calls() - calls
    every = [reply for one in replies for reply in one]
    p50, p95, worst = _percentiles(every)
    asked = callers * (rounds + 1)
    left = wait_for_base(place.url)
    wrong = [
        f"{callers} callers, {events} events: {what}"
        for what, is_so in (
            ("an answer is not the user's events in their order", not _right(first + every, events)),
            (f"{calls / asked:g} calls per answer, not {events + 1}", calls != asked * (events + 1)),
            (f"not back to base: {left}", left),
        )
        if is_so
    ]
    return Fetched(
        *(
            callers,
            events,
            len(every),
            _percentiles(first)[0],
            p50,
            p95,
            worst,
            calls // (rounds + 1),
        ),
        *(server * 1000 / asked, service * 1000 / asked, foreign, wrong),
    )


def _right(replies: Sequence[Reply], events: int) -> bool:
    wanted = list(range(1, events + 1))
    return all(r.status == 200 and [one["id"] for one in json.loads(r.body)] == wanted for r in replies)


@dataclass(frozen=True)
class Endured:
    """One outage. *reached*: calls that reached the service. Times in ms."""

    outage: str
    timeout: int
    breaker: bool
    asked: int
    reached: int
    p50: float
    p95: float
    statuses: dict[int, int]


async def ask_steadily(url: str, target: str, seconds: float) -> list[Reply]:
    """`RATE` calls a second, whether the earlier ones are answered or not."""
    asking, loop = Callers(url), asyncio.get_running_loop()
    started, under_way = loop.time(), []
    for number in range(round(seconds * RATE)):
        await asyncio.sleep(started + number / RATE - loop.time())
        under_way.append(loop.create_task(asking.get(target)))
    replies = await asyncio.gather(*under_way)
    asking.close()
    return replies


def endure(cores: Cores, seconds: float) -> list[Endured]:
    """All outages at once, with and without breaker: they leave the cores nearly idle."""
    kinds = [(*outage, breaker) for outage in OUTAGES for breaker in (True, False)]
    with tempfile.TemporaryDirectory() as folder:
        bare = without_breaker(Path(folder))
        with places([None if breaker else bare for *_, breaker in kinds], cores) as found:
            before = []
            for place, (outage, _, _) in zip(found, kinds, strict=True):
                get(f"{place.url}/getUsers")  # all is well
                place.order("/benchmark/hang" if outage == "hangs" else "/simulator/down")
                before.append(place.calls())

            async def everywhere() -> list[list[Reply]]:
                return await asyncio.gather(
                    *(
                        ask_steadily(place.url, f"/getUsers?timeout={timeout}", seconds)
                        for place, (_, timeout, _) in zip(found, kinds, strict=True)
                    )
                )

            return [
                _endured(kind, replies, place.calls() - calls)
                for kind, replies, place, calls in zip(kinds, _run(everywhere()), found, before, strict=True)
            ]


def _endured(kind: tuple[str, int, bool], replies: Sequence[Reply], reached: int) -> Endured:
    p50, p95, _ = _percentiles(replies)
    statuses = dict(sorted(Counter(reply.status for reply in replies).items()))
    return Endured(*kind, len(replies), reached, p50, p95, statuses)


def without_breaker(folder: Path) -> Path:
    """The server's own route table, but with no breaker around the event service."""
    head, title, rest = (ROOT / "server" / "routes.toml").read_text().partition("[upstream.events]")
    if "breaker = true" not in rest:
        raise BenchmarkError("server/routes.toml has no 'breaker = true' below [upstream.events]")
    path = folder / "routes.toml"
    path.write_text(head + title + rest.replace("breaker = true", "breaker = false", 1))
    return path


def _run(work: Coroutine[object, object, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _percentiles(replies: Sequence[Reply]) -> tuple[float, float, float]:
    """The median, the 95th and the longest, in ms."""
    took = sorted(reply.seconds * 1000 for reply in replies)
    return statistics.median(took), took[min(len(took) - 1, int(len(took) * 0.95))], took[-1]


FETCH_TITLES = (
    *("callers", "events", "answers", "first", "p50", "p95", "max", "p50 / one", "p95 / one", "p50 / alike"),
    *("calls/round", "server CPU", "upstream CPU", "noise"),
)
FETCH_LEGEND = """
ms at the caller; first: the median while connections to the event service are still being opened, not in
the other figures. / one: times one event for one caller; / alike: times one event for as many callers.
calls/round: how many reached the event service when each caller had asked once. CPU: ms per answer.
noise: cores that others were using; * means measure again."""


def fetch_rows(fetched: Sequence[Fetched]) -> list[tuple[object, ...]]:
    """The first table."""
    alone = fetched[0].p50
    alike = {one.callers: one.p50 for one in fetched if one.events == 1}
    return [
        (
            *(one.callers, one.events, one.answers, one.first, one.p50, one.p95, one.worst),
            *(f"{one.p50 / alone:.3f}", f"{one.p95 / alone:.3f}", f"{one.p50 / alike[one.callers]:.3f}"),
            *(one.calls, one.server_cpu, one.service_cpu),
            f"{one.foreign:.2f}{'*' if one.foreign > NOISY else ''}",
        )
        for one in fetched
    ]


ENDURE_TITLES = (
    *("service", "timeout", "breaker", "asked", "reached it", "p50", "p95"),
    *("calls saved", "p50 without / with", "p95 without / with", "statuses"),
)


def endure_rows(endured: Sequence[Endured]) -> list[tuple[object, ...]]:
    """The second table. The ratios are in the row with the breaker: what it saves."""
    rows: list[tuple[object, ...]] = []
    for one, other in _pairs(endured):
        ratios = (
            f"{other.reached / max(1, one.reached):.1f} x fewer",
            f"{other.p50 / one.p50:.1f}",
            f"{other.p95 / one.p95:.1f}",
        )
        for row, compared in ((one, ratios), (other, ("", "", ""))):
            told = " ".join(f"{status}:{count}" for status, count in row.statuses.items())
            rows.append(
                (
                    *(row.outage, row.timeout, "yes" if row.breaker else "no", row.asked, row.reached),
                    *(row.p50, row.p95, *compared, told),
                )
            )
    return rows


def _pairs(endured: Sequence[Endured]) -> list[tuple[Endured, Endured]]:
    return list(zip(endured[::2], endured[1::2], strict=True))


def judge(fetched: Sequence[Fetched], endured: Sequence[Endured]) -> list[str]:
    """What is wrong, in words."""
    wrong = [what for one in fetched for what in one.wrong]
    for one, other in _pairs(endured):
        name = f"service {one.outage}, timeout {one.timeout}"
        if one.reached * 2 > other.reached:
            wrong.append(f"{name}: the breaker saved nothing, {one.reached} calls of {other.reached}")
        for row in (one, other):
            if odd := {status: n for status, n in row.statuses.items() if status not in (502, 503, 504)}:
                wrong.append(f"{name}: unexpected statuses {odd}")
    return wrong


def missed(fetched: Sequence[Fetched]) -> list[str]:
    """
    Where the goal was missed. In a burst one core has to make every call, so its work alone may take longer
    than the goal allows: that is told beside it, and is no error.
    """
    alone = fetched[0].p50
    return [
        f"goal missed: {one.callers} callers, {one.events} events: {one.p50 / alone:.2f} times one event, "
        f"not {GOAL}; the goal leaves {(GOAL - 1) * alone:.0f} ms, and the server's work on one round is "
        f"{one.server_cpu * one.callers:.0f} ms of CPU"
        for one in fetched
        if one.p50 > GOAL * alone
    ]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.events",
        description="The time of 1, 10 and 50 events, and what the circuit breaker saves in an outage.",
    )
    add = parser.add_argument
    add("--callers", type=int, default=200, metavar="N", help="callers at once (200)")
    add("--rounds", type=int, default=5, metavar="N", help="times that each asks (5; 3 in a burst)")
    add("--outage", type=int, default=60, metavar="S", help="seconds that the outage lasts (60)")
    add("--quick", action="store_true", help="three rounds, and an outage of 20 s: about 45 s in all")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.rounds, arguments.outage = 3, 20
    if min(arguments.callers, arguments.rounds, arguments.outage) < 1:
        parser.error("--callers, --rounds and --outage must be 1 or more")
    return arguments


def run(arguments: argparse.Namespace) -> list[str]:
    """Measure, print, keep; returns what was wrong."""
    cores = assign_cores()
    pin(cores.load)
    with places([None], cores) as [place]:
        sizes = [*((1, events) for events in USERS), (arguments.callers, 1), (arguments.callers, 10)]
        fetched = [
            fetch(place, callers, events, arguments.rounds if callers == 1 else min(arguments.rounds, 3))
            for callers, events in sizes
        ]
        errors = place.server.errors()
    print(render(FETCH_TITLES, fetch_rows(fetched)), FETCH_LEGEND, sep="\n", flush=True)
    endured = endure(cores, arguments.outage)
    print(f"\n{RATE} calls of GET /getUsers per second, for {arguments.outage} s; ms at the caller:\n")
    print(render(ENDURE_TITLES, endure_rows(endured)))
    wrong = judge(fetched, endured) + ([f"{errors} errors in the server's log"] if errors else [])
    goals = missed(fetched)
    print("", *goals, *(wrong or ["Every answer was right, and the breaker kept its word."]), sep="\n")
    kept = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "arguments": vars(arguments),
        "fetched": [asdict(one) for one in fetched],
        "endured": [asdict(one) for one in endured],
        "missed": goals,
        "wrong": wrong,
    }
    (RESULTS / "events.json").write_text(json.dumps(kept, indent=1) + "\n")
    return wrong


def main(argv: list[str] | None = None) -> int:
    """Measure; 1 when something was wrong, 2 when it could not be measured."""
    arguments = parse(argv)
    end_on_sigterm()
    try:
        return 1 if run(arguments) else 0
    except (BenchmarkError, OSError) as error:
        print(f"events: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
