"""What is still done when more is asked than can be? Arrivals at multiples of the capacity wait for nobody.

The capacity comes first, from a closed loop on the same route. An upstream of 50 ms that never fails, so that
whatever is not good is the server's doing; or the real one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.figures import recovery
from benchmarks.generator import Load
from benchmarks.rig import Place, Window
from benchmarks.schedule import parse_schedule
from benchmarks.sections import Plan, Report, mark, shown
from benchmarks.servers import ours
from benchmarks.targets import (
    KEPT,
    LATE_SUCCESSES,
    RECOVERED,
    REFUSED_P99,
    SERVED,
    Judged,
    at_least,
    at_most,
)

ROUTE = "first"
REST = 2.0
"""Seconds after each flood, in which a server that has drowned may come up again."""
TITLES = (
    *("server", "load", "arrivals/s", "good/s", "of capacity", "late 200", "later than +10 ms", "unanswered"),
    *("refused", "refused p50", "refused p99", "behind p99", "noise"),
)
LEGEND = """
of capacity: good answers per second as a share of the most that a closed loop got. later: of all requests,
answered later than that or never; unanswered: given up a second after the timeout, or all connections
waited. refused: 503 with Retry-After. Times in ms, from when a request was due. behind: by how much the
generator sent later than that; the server is not to blame for it. step: a load that rises and falls; back:
seconds from its fall until 99 % of what is usual are good again."""


@dataclass(frozen=True)
class Step:
    """A load that rises and falls, and when it fell for the last time."""

    text: str
    fell: int


@dataclass(frozen=True)
class Flooded:
    """What became of one server. *at* has a window for each multiple of the *capacity*."""

    name: str
    capacity: float
    at: dict[float, Window]
    step: Window
    back: float | None


def run(plan: Plan) -> Report:
    """Ours and Go's, one after the other."""
    peers = [peer for peer in plan.peers if peer.name == "go"]
    flooded = [_flood(plan, index) for index in range(1 + len(peers))]
    timeout = _timeout(plan)
    world = "the real upstream" if plan.real else "an upstream of 50 ms"
    return Report(
        "overload",
        f"overload: open loop on {ROUTE}, {world}, timeout {timeout * 1000:.0f} ms; capacity: "
        + ", ".join(f"{one.name} {one.capacity:.0f}/s" for one in flooded),
        TITLES,
        [_row(one, f"{load:g}x", window) for one in flooded for load, window in one.at.items()]
        + [_row(one, f"step, back after {shown(one.back, 'g')} s", one.step) for one in flooded],
        LEGEND,
        judge(flooded[0]),
        [window for one in flooded for window in (*one.at.values(), one.step)],
        {
            "capacity": {one.name: one.capacity for one in flooded},
            "back": {one.name: one.back for one in flooded},
            "step": _step(plan).text,
        },
        keeps=frozenset({"series"}),
    )


def judge(found: Flooded) -> list[Judged]:
    """Our own figures against the targets."""
    judged = []
    for load, window in found.at.items():
        seen = window.seen
        if (limit := SERVED.get(load)) is not None:
            judged.append(at_least(f"served at {load:g}x", seen.good / max(1, seen.sent), limit, "%"))
        if (limit := KEPT.get(load)) is not None:
            judged.append(at_least(f"goodput at {load:g}x", seen.goodput / found.capacity, limit, "%"))
            judged.append(at_most(f"late 200s at {load:g}x", seen.late_200, LATE_SUCCESSES))
        if (took := seen.took("refused", "p99")) is not None:
            judged.append(at_most(f"p99 of refusals at {load:g}x", took, REFUSED_P99, "ms"))
    return [*judged, at_most("back to normal after the step", found.back, RECOVERED, "s")]


def _timeout(plan: Plan) -> float:
    return 0.5 if plan.real else 0.3


def _step(plan: Plan) -> Step:
    text = plan.schedule or ("0.5x 2s, 10x 2s, 0.5x 4s" if plan.quick else "0.5x 4s, 10x 4s, 0.5x 8s")
    phases = parse_schedule(text, 1)
    return Step(text, round(sum(phase.seconds for phase in phases[:-1])))


def _flood(plan: Plan, index: int) -> Flooded:
    go = [peer for peer in plan.peers if peer.name == "go"]
    server = (ours(shedding=plan.shedding), *go)[index]
    latency, timeout, step = "100-600" if plan.real else "50", _timeout(plan), _step(plan)
    seconds = 2.0 if plan.quick else 5.0
    with plan.bench.places([server], latency, failing=plan.real) as [place]:
        full = _capacity(place, plan, timeout)
        at = {}
        for load in (0.7, 2.0, 10.0) if plan.quick else (0.7, 1.0, 2.0, 5.0, 10.0):
            phases = parse_schedule(f"{load:g}x {seconds + 1:g}s", full)
            asked = Load((ROUTE,), timeout, phases=phases, warmup=1.0, connections=plan.connections)
            at[load] = plan.bench.measure(place, asked)
            time.sleep(REST)
        phases = parse_schedule(step.text, full)
        asked = Load((ROUTE,), timeout, phases=phases, connections=plan.connections)
        window = plan.bench.measure(place, asked)
    calm = at[min(at)].seen
    usual = calm.good / max(1, calm.sent) if plan.real else 1.0
    return Flooded(server.name, full, at, window, recovery(window.seen.series, step.fell, usual))


def _capacity(place: Place, plan: Plan, timeout: float) -> float:
    """The most good answers per second that callers get who ask again at once."""
    most = 0.0
    for callers in (800, 2400) if plan.real else (200, 400, 800):
        load = Load((ROUTE,), timeout, callers, 1.5 if plan.quick else 2.5, warmup=1.0)
        most = max(most, plan.bench.measure(place, load).seen.goodput)
    return most


def _row(found: Flooded, load: str, window: Window) -> tuple[object, ...]:
    seen = window.seen
    return (
        *(found.name, load, round(seen.sent / seen.seconds), round(seen.goodput)),
        f"{seen.goodput / found.capacity:.0%}",
        *(
            seen.late_200,
            f"{seen.late_share:.2%}",
            seen.unanswered,
            f"{seen.refused / max(1, seen.sent):.1%}",
        ),
        *(shown(seen.took("refused", name)) for name in ("p50", "p99")),
        *(shown(seen.behind_ms.get("p99")), mark([window])),
    )
