"""What does a second worker bring? No latency, all on all cores, so read the ratios."""

from __future__ import annotations

import statistics
from dataclasses import replace

from benchmarks.figures import median_ratio, rotated
from benchmarks.generator import Load
from benchmarks.processes import Cores
from benchmarks.rig import Window
from benchmarks.sections import Plan, Report, mark
from benchmarks.servers import PEER_ROUTES, go, ours

TITLES = ("route", "server", "1 worker", "2 workers", "ratio", "CPU us 1", "CPU us 2", "noise")
LEGEND = """
Answers per second with one worker and with two (Go: GOMAXPROCS), and the median of the ratios within each
round. Server, load generator and upstream share all cores."""


def run(plan: Plan) -> Report:
    """One and two of each, side by side in turns."""
    bench = replace(plan.bench, cores=Cores(None, None, None))
    kinds = {f"hedgerow {n}": ours(shedding=plan.shedding, workers=n) for n in (1, 2)}
    if any(peer.name == "go" for peer in plan.peers):
        kinds |= {f"go {n}": go(threads=n) for n in (1, 2)}
    routes = ("first",) if plan.quick else PEER_ROUTES
    rounds, seconds = (2, 1.5) if plan.quick else (3, 2.5)
    taken: dict[tuple[str, str], list[Window]] = {}
    with bench.places(list(kinds.values())) as found:
        by_kind = dict(zip(kinds, found, strict=True))
        for number in range(rounds):
            for route in routes:
                for kind in rotated(list(kinds), number):
                    load = Load((route,), callers=64, seconds=seconds)
                    taken.setdefault((route, kind), []).append(bench.measure(by_kind[kind], load))
    names = sorted({kind.split()[0] for kind in kinds}, reverse=True)
    return Report(
        "workers",
        "workers: one and two processes, no latency, 64 callers",
        TITLES,
        [
            _row(route, name, *(taken[route, f"{name} {n}"] for n in (1, 2)))
            for route in routes
            for name in names
        ],
        LEGEND,
        windows=[window for windows in taken.values() for window in windows],
    )


def _row(route: str, name: str, one: list[Window], two: list[Window]) -> tuple[object, ...]:
    def rates(windows: list[Window]) -> list[float]:
        return [window.seen.answered / window.seen.seconds for window in windows]

    return (
        *(route, name, round(statistics.median(rates(one))), round(statistics.median(rates(two)))),
        f"{median_ratio(rates(two), rates(one)):.2f}",
        *(statistics.median([window.cpu_us for window in windows]) for windows in (one, two)),
        mark([*one, *two]),
    )
