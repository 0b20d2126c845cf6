"""``python -m benchmarks``: our server and its peers under load, one table for each question, targets beside.

The server has a core to itself; load generator and upstream, both in Go, share another. CPU is the server
process's own, as the kernel tells it; lateness is counted at the callers. README.rst tells how to read it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import golang
from benchmarks.machine import machine, told
from benchmarks.processes import RESULTS, BenchmarkError, assign_cores, end_on_sigterm, pin
from benchmarks.rig import Bench, Window
from benchmarks.schedule import parse_schedule
from benchmarks.sections import Plan, Report, cpu, goodput, latency, overload, soak, workers
from benchmarks.servers import peers

SECTIONS: dict[str, Callable[[Plan], Report]] = {
    "cpu": cpu.run,
    "latency": latency.run,
    "goodput": goodput.run,
    "overload": overload.run,
    "workers": workers.run,
    "soak": soak.run,
}
USUAL = tuple(name for name in SECTIONS if name != "soak")
QUICK = ("cpu", "goodput", "overload")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="CPU per request, goodput, overload and memory, of our server and of its peers.",
    )
    add = parser.add_argument
    add(
        "sections",
        nargs="*",
        metavar="SECTION",
        help=f"{', '.join(SECTIONS)} (all but soak; quick: {', '.join(QUICK)})",
    )
    add("--quick", action="store_true", help="about three minutes, rough figures; else about a quarter hour")
    add("--peers", choices=("on", "off"), default="on", help="measure others beside us (on)")
    add("--shedding", choices=("on", "off"), default="on", help="our LOAD_SHEDDING (on)")
    add("--minutes", type=float, default=10.0, metavar="N", help="how long the soak lasts (10)")
    add("--schedule", default="", metavar="TEXT", help="the overload's step (0.5x 4s, 10x 4s, 0.5x 8s)")
    add("--real", action="store_true", help="overload over the real upstream, timeout 500 ms")
    add("--connections", type=int, default=4000, metavar="N", help="at most, in an open loop (4000)")
    add("--save", type=Path, metavar="FILE", help="keep the results there, too")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    try:
        parse_schedule(arguments.schedule or "1x 1s", 1)
    except ValueError as error:
        parser.error(f"--schedule: {error}")
    return arguments


def save(reports: list[Report], arguments: argparse.Namespace, path: Path) -> None:
    """Keep everything as JSON."""
    kept = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "quick": arguments.quick,
        "shedding": arguments.shedding,
        "sections": {report.name: _kept(report) for report in reports},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=None, separators=(",", ":")) + "\n")


def _kept(report: Report) -> dict[str, object]:
    judged = [asdict(one) | {"met": one.met} for one in report.judged]
    return {
        "title": report.title,
        "judged": judged,
        "figures": report.figures,
        "wrong": report.wrong,
        "windows": [_window(window, report.keeps) for window in report.windows],
    }


def _window(window: Window, keeps: frozenset[str]) -> dict[str, object]:
    """All of it but the long lists that this section does not need."""
    seen = asdict(window.seen)
    seen["cdf"] = {"200": window.seen.cdf["200"]} if "cdf" in keeps else {}
    if "series" not in keeps:
        seen["series"] = []
    return asdict(window) | {"seen": seen}


def run(arguments: argparse.Namespace) -> list[Report]:
    """Each section that was asked for; printed as soon as it is there."""
    golang.build("generator")
    golang.build("upstream")
    found, missing = peers() if arguments.peers == "on" else ([], [])
    print(told(machine()), *missing, sep="\n", flush=True)
    plan = Plan(
        Bench(assign_cores(), 30.0 if arguments.quick else 240.0),
        tuple(found),
        arguments.quick,
        arguments.shedding == "on",
        arguments.minutes,
        arguments.schedule,
        arguments.real,
        arguments.connections,
    )
    pin(plan.bench.cores.load)
    reports = []
    for name in arguments.sections or (QUICK if arguments.quick else USUAL):
        began = time.monotonic()
        report = SECTIONS[name](plan)
        reports.append(report)
        if isinstance(go_smart := report.figures.get("go_smart"), float):
            plan = replace(plan, go_smart=go_smart)
        print(f" {name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
        print(report.text(), flush=True)
        save(reports, arguments, RESULTS / "latest.json")
    return reports


def main(argv: list[str] | None = None) -> int:
    """
    Run the benchmark; 1 when our server leaked or answered wrongly, 2 when it could not be run.

    A target that was missed is told, but is no failure: what a machine can do is not ours to promise.
    """
    arguments = parse(argv)
    end_on_sigterm()
    try:
        reports = run(arguments)
    except (BenchmarkError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if arguments.save:
        save(reports, arguments, arguments.save)
    missed = [one for report in reports for one in report.judged if not one.met]
    print(f"\n{len(missed)} targets missed of {sum(len(report.judged) for report in reports)}.")
    return 1 if any(report.wrong for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
