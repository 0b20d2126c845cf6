"""How long does each strategy take over the real upstream? 200 callers who have the time."""

from __future__ import annotations

from benchmarks.generator import Load
from benchmarks.rig import Window
from benchmarks.sections import Plan, Report, mark, shown
from benchmarks.servers import ours
from benchmarks.targets import LATE_SHARE, at_most

CALLERS, TIMEOUT = 200, 1.0
TITLES = (
    "route",
    "successes",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "max ms",
    "later than +10 ms",
    "CPU us",
    "noise",
)
LEGEND = """
successes: of all requests, those with a 200 in time. p50 to p99: of these. max: of all answers."""


def run(plan: Plan) -> Report:
    """Every route of ours."""
    server = ours(shedding=plan.shedding)
    with plan.bench.places([server], "100-600", failing=True) as [place]:
        windows = []
        for route in server.routes:
            load = Load((route,), TIMEOUT, CALLERS, 2.0 if plan.quick else 8.0, warmup=1.0, grace=3.0)
            windows.append(plan.bench.measure(place, load))
    return Report(
        "latency",
        f"latency: an upstream of 100-600 ms of which a tenth fails, {CALLERS} callers, "
        f"timeout {TIMEOUT * 1000:.0f} ms",
        TITLES,
        [_row(window) for window in windows],
        LEGEND,
        [
            at_most(f"later than +10 ms, {one.load.routes[0]}", one.seen.late_share, LATE_SHARE, "%")
            for one in windows
        ],
        windows,
        keeps=frozenset({"cdf"}),
    )


def _row(window: Window) -> tuple[object, ...]:
    seen = window.seen
    return (
        *(window.load.routes[0], f"{seen.good / max(1, seen.sent):.1%}"),
        *(shown(seen.took("200", name)) for name in ("p50", "p95", "p99")),
        *(shown(seen.took("all", "max")), f"{seen.late_share:.2%}", round(window.cpu_us), mark([window])),
    )
