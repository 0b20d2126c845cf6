"""``python -m benchmarks``: start the simulator and the server, let wrk ask, and print one table.

Two loads: an upstream without latency, which shows what a request costs us, and the real one (100-600 ms,
one answer in ten bad), which shows whether answers come on time. CPU is the server process's own, divided by
the requests it had: what shares the load's core (the simulator, in Python, is no match for wrk) can lower
requests per second, but hardly that figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from benchmarks.base import scrape, total, wait_for_base
from benchmarks.load import Ask, Found, find_wrk, run_wrk
from benchmarks.processes import (
    PROMPT,
    RESULTS,
    BenchmarkError,
    Cores,
    Running,
    Simulator,
    assign_cores,
    busy_seconds,
    end_on_sigterm,
    running,
)
from benchmarks.table import render

ROUTES = ("all", "first", "smart", "within-timeout")
NOISY = 0.33
"""Cores' worth of other people's work beyond which a window is marked: it should be measured again."""


@dataclass(frozen=True)
class Window:
    """One window of load: what was asked, what the callers saw, and what it cost the server."""

    upstream: str
    ask: Ask
    found: Found
    cpu_us: float
    rss_mb: float
    peak_mb: float
    missed: int
    opened: float
    foreign: float
    left: dict[str, float]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Requests per second, latency, late answers, errors, CPU and memory, route by route.",
    )
    add = parser.add_argument
    add("--duration", type=int, default=5, metavar="S", help="seconds per window (5)")
    add("--repeat", type=int, default=1, metavar="N", help="windows of each kind; shows the median one (1)")
    add("--connections", type=int, metavar="N", help="callers (64 without latency, 200 with)")
    add("--routes", nargs="+", choices=ROUTES, default=ROUTES, metavar="ROUTE", help=", ".join(ROUTES))
    add(
        "--timeout", type=int, default=500, metavar="MS", help="the fixed timeout, the least random one (500)"
    )
    add("--latency", default="uniform:100-600", metavar="FORM", help="the real upstream's (uniform:100-600)")
    add("--no-latency", action="store_true", help="only the upstream without latency")
    add("--quick", action="store_true", help="windows of one second: about 20 s in all, and rough figures")
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.duration, arguments.repeat = 1, 1
    for name in ("duration", "repeat", "timeout", "connections"):
        if (number := getattr(arguments, name)) is not None and number < 1:
            parser.error(f"--{name} must be 1 or more")
    return arguments


def measure(upstream: str, around: Running, ask: Ask, cores: Cores) -> Window:
    """One window. The server was at base before it, and is waited for afterwards."""
    before, busy = scrape(around.url), busy_seconds()
    ours, cpu, started = _our_cpu(around), around.server.cpu_seconds(), time.monotonic()
    found = run_wrk(around.url, ask, cores.load)
    elapsed = time.monotonic() - started
    spent = around.server.cpu_seconds() - cpu
    foreign = max(0.0, busy_seconds() - busy - (_our_cpu(around) - ours)) / elapsed
    left = wait_for_base(around.url)
    after, memory = scrape(around.url), around.server.memory_mb()

    def grown(name: str, label: str) -> float:
        return total(after, name, label) - total(before, name, label)

    mine = f'route="{ask.route}"'
    # By the server's count, which has the callers in it that were cut off when the window closed.
    served = grown("hedgerow_response_seconds_count", mine) or 1
    return Window(
        upstream,
        ask,
        found,
        cpu_us=spent / served * 1e6,
        rss_mb=memory[0],
        peak_mb=memory[1],
        missed=round(grown("hedgerow_deadline_missed_total", mine)),
        opened=grown("hedgerow_connections_total", 'state="opened"') / served,
        foreign=foreign,
        left=left,
    )


def _our_cpu(around: Running) -> float:
    """Seconds of CPU of everything that we run."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    here = time.process_time() + ended.ru_utime + ended.ru_stime
    processes = [around.server, *([around.simulator] if around.simulator else [])]
    return here + sum(process.cpu_seconds() for process in processes)


def plan(arguments: argparse.Namespace) -> Iterator[tuple[str, Simulator, list[Ask]]]:
    """Each upstream, with what is asked of it."""
    base = Ask("", arguments.timeout, arguments.timeout, arguments.connections or 64, arguments.duration)
    yield "no latency", PROMPT, [replace(base, route=route) for route in arguments.routes]
    if not arguments.no_latency:
        fixed = replace(base, callers=arguments.connections or 200)
        random = replace(fixed, timeout=2 * arguments.timeout)
        asks = [replace(kind, route=route) for kind in (fixed, random) for route in arguments.routes]
        yield arguments.latency, Simulator(arguments.latency), asks


def run(arguments: argparse.Namespace) -> tuple[list[Window], list[str]]:
    """Every window that was planned, and what went wrong besides."""
    cores, windows, wrong = assign_cores(), [], []
    for upstream, model, asks in plan(arguments):
        with running(model, cores) as around:
            run_wrk(around.url, replace(asks[0], seconds=1), cores.load)
            wait_for_base(around.url)
            rounds: list[list[Window]] = [[] for _ in asks]
            for _ in range(arguments.repeat):
                for ask, taken in zip(asks, rounds, strict=True):
                    taken.append(measure(upstream, around, ask, cores))
                    print(".", end="", flush=True, file=sys.stderr)
            if errors := around.server.errors():
                wrong.append(f"{errors} errors in the server's log, {around.server.log}")
        for taken in rounds:
            windows.append(_median(taken))
            wrong += [f"{w.ask.route}: not back to base, {w.left}" for w in taken if w.left]
            wrong += [f"{w.ask.route}: {w.found.errors} errors" for w in taken if w.found.errors]
    print(file=sys.stderr)
    return windows, wrong


def _median(windows: list[Window]) -> Window:
    """The window in the middle by CPU, so that a row's figures belong together."""
    middle = statistics.median_low([window.cpu_us for window in windows])
    return next(window for window in windows if window.cpu_us == middle)


TITLES = (
    *("upstream", "route", "timeout", "callers", "req/s", "p50", "p95", "p99", "max"),
    *("200", "unmet", "late", "errors", "CPU us", "RSS MB", "peak MB", "noise"),
)


def row(window: Window) -> tuple[object, ...]:
    """One line of the table."""
    ask, found = window.ask, window.found
    return (
        *(window.upstream, ask.route, ask.text, ask.callers, found.requests / found.seconds),
        *(found.p50, found.p95, found.p99, found.worst, found.ok, found.unmet, found.late, found.errors),
        *(window.cpu_us, window.rss_mb, window.peak_mb),
        f"{window.foreign:.2f}{'*' if window.foreign > NOISY else ''}",
    )


LEGEND = """
p50 to max: ms at the caller. unmet: the contract's error, right behaviour. late: over timeout + 10 ms at the
caller. errors: any other status, and broken connections. CPU us: the server's, per request (a caller cut
off at the end of the window counts as one). noise: cores that others were using; * means measure again."""


def save(windows: list[Window], wrong: list[str], arguments: argparse.Namespace) -> None:
    """Keep everything as JSON."""
    RESULTS.mkdir(exist_ok=True)
    kept = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "arguments": vars(arguments),
        "windows": [asdict(window) for window in windows],
        "wrong": wrong,
    }
    (RESULTS / "latest.json").write_text(json.dumps(kept, indent=1) + "\n")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; 1 when the server leaked or answered wrongly, 2 when it could not be run."""
    arguments = parse(argv)
    end_on_sigterm()
    try:
        find_wrk()
        windows, wrong = run(arguments)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(render(TITLES, [row(window) for window in windows]))
    print(LEGEND)
    print("\n".join(wrong) or "After each window nothing was left in flight, and no answer was wrong.")
    save(windows, wrong, arguments)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
