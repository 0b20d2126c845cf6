"""How many callers get what they want in time, and how many wait in vain? A closed loop, real latencies."""

from __future__ import annotations

from benchmarks.generator import Load
from benchmarks.rig import Window
from benchmarks.sections import Plan, Report, mark, shown
from benchmarks.servers import ours
from benchmarks.targets import (
    CROWD,
    GO_SMART,
    IN_A_CROWD,
    LATE_SHARE,
    MEMORY,
    OPENED,
    Judged,
    at_least,
    at_most,
)

REAL = "100-600"
DROWNED = 10
"""Good answers per second below which, on every route, a server is not asked by even more callers."""
TITLES = (
    *("callers", "route", "server", "good/s", "later than +10 ms", "refused", "p50 ms", "p99 ms", "max ms"),
    *("CPU us", "peak MB", "opened", "noise"),
)
LEGEND = """
good/s: successes per second that came by timeout + 10 ms. later: of all requests, answered later than that or
never. p50 to max: of all answers. peak MB: resident memory at its most so far. opened: connections to the
upstream per answer. A caller who is refused asks again after 100 ms. Who drowned is not asked by more."""


def run(plan: Plan) -> Report:
    """A fresh server for each number of callers, so that its peak of memory is its own."""
    callers = (200, 1000, 4000)
    routes = ("first", "smart") if plan.quick else ("first", "smart", "all")
    seconds, timeout = (1.5 if plan.quick else 4.0), 0.5
    peers = [peer for peer in plan.peers if not plan.quick or peer.name == "go"]
    windows: list[Window] = []
    drowned: set[str] = set()
    for count in callers:
        for server in (ours(shedding=plan.shedding), *peers):
            if server.name in drowned:
                continue
            with plan.bench.places([server], REAL, failing=True) as [place]:
                for route in routes:
                    load = Load((route,), timeout, count, seconds, warmup=2.0, grace=3.0)
                    windows.append(plan.bench.measure(place, load))
                if all(window.seen.goodput < DROWNED for window in windows[-len(routes) :]):
                    drowned.add(server.name)
    ordered = sorted(windows, key=lambda one: (one.load.callers, routes.index(one.load.routes[0])))
    return Report(
        "goodput",
        f"goodput: an upstream of {REAL} ms of which a tenth fails, timeout {timeout * 1000:.0f} ms, "
        f"closed loop, {seconds:g} s",
        TITLES,
        [_row(window) for window in ordered],
        LEGEND,
        [
            judged
            for one in ordered
            if one.server == "hedgerow"
            for judged in judge(one, ordered, plan.go_smart)
        ],
        ordered,
    )


def judge(ours: Window, windows: list[Window], go_smart: float | None) -> list[Judged]:
    """One window of ours against the targets, the peers in the same place, and the speed of this machine."""
    route, callers = ours.load.routes[0], ours.load.callers
    where = f"{route} at {callers} callers"
    peers = [
        one.seen.goodput
        for one in windows
        if one.server != ours.server and (one.load.routes[0], one.load.callers) == (route, callers)
    ]
    judged = [at_most(f"later than +10 ms, {where}", ours.seen.late_share, LATE_SHARE, "%")]
    if peers:
        judged.append(at_least(f"goodput beside the best peer, {where}", ours.seen.goodput, max(peers)))
    if route == "first":
        judged.append(at_most(f"connections per answer, {where}", ours.opened, OPENED))
    if callers == CROWD:
        judged.append(at_most(f"memory, {where}", ours.peak_mb, MEMORY, "MB"))
        if go_smart is not None:
            goal = IN_A_CROWD[route] * GO_SMART / go_smart
            judged.append(at_least(f"goodput for this machine, {where}", ours.seen.goodput, goal))
    return judged


def _row(window: Window) -> tuple[object, ...]:
    seen = window.seen
    return (
        *(window.load.callers, window.load.routes[0], window.server, round(seen.goodput)),
        *(f"{seen.late_share:.2%}", f"{seen.refused / max(1, seen.sent):.1%}"),
        *(shown(seen.took("all", name)) for name in ("p50", "p99", "max")),
        *(round(window.cpu_us), round(window.peak_mb), f"{window.opened:.2f}", mark([window])),
    )
