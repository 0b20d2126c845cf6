"""What does a request cost? An upstream without latency, 64 callers, all servers side by side in turns."""

from __future__ import annotations

import statistics

from benchmarks.figures import median_ratio, rotated
from benchmarks.generator import Load
from benchmarks.rig import Window
from benchmarks.sections import Plan, Report, mark, shown
from benchmarks.servers import PEER_ROUTES, ours
from benchmarks.targets import CPU_TO_GO, at_most

CALLERS = 64
TITLES = ("route", "server", "CPU us", "to go", "answers/s", "p99 ms", "opened", "RSS MB", "noise")
LEGEND = """
CPU us: user and system time of the server per answer, median of the rounds. to go: the median of the ratios
within each round. opened: connections opened to the upstream per answer. noise: cores that others used at
most; * means that a window stayed disturbed."""


def run(plan: Plan) -> Report:
    """Rounds of A B C, B C A, …"""
    peers = [peer for peer in plan.peers if not plan.quick or peer.name != "fastapi"]
    servers = {server.name: server for server in (ours(shedding=plan.shedding), *peers)}
    rounds, seconds = (2, 1.2) if plan.quick else (5, 2.5)
    taken: dict[tuple[str, str], list[Window]] = {}
    with plan.bench.places(list(servers.values())) as found:
        by_name = {place.server.name: place for place in found}
        for place in found:
            plan.bench.measure(place, Load(PEER_ROUTES, callers=CALLERS, seconds=0.5))  # warms it up
        for number in range(rounds):
            for route in PEER_ROUTES:
                for name in rotated(list(servers), number):
                    load = Load((route,), callers=CALLERS, seconds=seconds)
                    window = plan.bench.measure(by_name[name], load)
                    taken.setdefault((route, name), []).append(window)
    ratios = {
        (route, name): median_ratio(costs(windows), costs(taken[route, "go"]))
        for (route, name), windows in taken.items()
        if "go" in servers
    }
    return Report(
        "cpu",
        f"cpu: an upstream without latency, {CALLERS} callers, {rounds} rounds of {seconds:g} s",
        TITLES,
        [
            _row(route, name, taken[route, name], ratios.get((route, name)))
            for route in PEER_ROUTES
            for name in servers
        ],
        LEGEND,
        [
            at_most(f"CPU of {route} as a multiple of Go's", ratio, CPU_TO_GO[route])
            for (route, name), ratio in ratios.items()
            if name == "hedgerow"
        ],
        [window for windows in taken.values() for window in windows],
        {
            "to_go": {f"{name} {route}": ratio for (route, name), ratio in ratios.items()},
            "go_smart": statistics.median(costs(taken["smart", "go"])) if "go" in servers else None,
        },
    )


def costs(windows: list[Window]) -> list[float]:
    """CPU per answer, round by round."""
    return [window.cpu_us for window in windows]


def _row(route: str, name: str, windows: list[Window], ratio: float | None) -> tuple[object, ...]:
    def middle(numbers: list[float]) -> float:
        return statistics.median(numbers)

    return (
        *(route, name, middle(costs(windows)), shown(ratio, ".2f")),
        round(middle([window.seen.answered / window.seen.seconds for window in windows])),
        middle([window.seen.took("all", "p99") or 0.0 for window in windows]),
        f"{middle([window.opened for window in windows]):.2f}",
        round(max(window.rss_mb for window in windows)),
        mark(windows),
    )
