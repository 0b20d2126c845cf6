"""Does anything grow? Minutes of all routes over the real upstream, memory after each window."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.generator import Load
from benchmarks.rig import Window
from benchmarks.sections import Plan, Report, mark
from benchmarks.servers import ours
from benchmarks.targets import GROWTH, LATE_SHARE, at_most

CALLERS, TIMEOUT = 200, 0.5
TITLES = ("minute", "answers/s", "good/s", "later than +10 ms", "RSS MB", "peak MB", "descriptors", "noise")
LEGEND = """
RSS: resident memory when nobody asks any more. It starts from the first window, in which caches and pools
fill. Connections of callers begin anew with each window."""


def run(plan: Plan) -> Report:
    """Window after window, on one server."""
    server = ours(shedding=plan.shedding)
    length = min(60.0, max(5.0, plan.minutes * 60 / 4))
    count = max(2, round(plan.minutes * 60 / length))
    load = Load(server.routes, TIMEOUT, CALLERS, length, warmup=1.0, grace=3.0)
    bench = replace(plan.bench, patience=0.0)  # a soak is not interrupted to measure again
    windows: list[Window] = []
    rows: list[tuple[object, ...]] = []
    with bench.places([server], "100-600", failing=True) as [place]:
        for number in range(count):
            windows.append(bench.measure(place, load))
            rows.append(_row((number + 1) * length / 60, windows[-1], place.process.descriptors()))
    sizes = [window.rss_mb for window in windows]
    late = max(window.seen.late_share for window in windows)
    return Report(
        "soak",
        f"soak: {plan.minutes:g} minutes, {CALLERS} callers, all routes in turn; "
        f"RSS from {sizes[0]:.0f} to {sizes[-1]:.0f} MB, {max(sizes):.0f} at most",
        TITLES,
        rows,
        LEGEND,
        [
            at_most("growth of resident memory", sizes[-1] - sizes[0], GROWTH, "MB"),
            at_most("later than +10 ms in the worst window", late, LATE_SHARE, "%"),
        ],
        windows,
    )


def _row(minute: float, window: Window, descriptors: int) -> tuple[object, ...]:
    seen = window.seen
    return (
        *(minute, round(seen.answered / seen.seconds), round(seen.goodput), f"{seen.late_share:.2%}"),
        *(window.rss_mb, window.peak_mb, descriptors, mark([window])),
    )
