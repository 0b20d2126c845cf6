"""Draws ``bench-latency``, ``bench-concurrency`` and ``bench-overload`` in ``docs/_static``, as measured.

    make bench ARGS="--save docs/figures/bench.json"
    python -m venv /tmp/figures && /tmp/figures/bin/pip install "matplotlib>=3.9"
    /tmp/figures/bin/python docs/figures/bench_results.py docs/figures/bench.json

A picture whose section is not in the results is not drawn.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from bench_drawing import COLOURS, GREY, MARKERS, NAMES, panels, write

Section = dict[str, Any]

ROUTE_LOOKS = {
    "first": ("#2f7d46", "-"),
    "smart": ("#2c5d8f", "-"),
    "adaptive": ("#a8741a", "-"),
    "within-timeout": ("#6b7a88", "--"),
    "all": ("#b3392b", "-"),
}


def latency(section: Section) -> Path:
    """One curve for each strategy: which share of all requests has had its 200 by then."""
    figure, [axes] = panels(1, 1, (8, 4.5))
    windows = {window["load"]["routes"][0]: window for window in section["windows"]}
    told = []
    for route, (colour, style) in ROUTE_LOOKS.items():
        if route not in windows:
            continue
        seen = windows[route]["seen"]
        share = seen["status"].get("200", 0) / seen["sent"]
        points = [(ms, q * share) for ms, q in seen["cdf"]["200"]]
        axes.plot(
            *zip(*points, strict=True), color=colour, linestyle=style, linewidth=2, label=f"/api/{route}"
        )
        told.append(f"{route} {share:.1%}, half of these by {seen['latency_ms']['200']['p50']:.0f} ms")
    one = next(iter(windows.values()))["load"]
    axes.set_xlim(0, one["timeout"] * 1000)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xlabel("ms since the request")
    axes.set_ylabel("share of requests answered with 200")
    axes.legend(loc="lower right")
    words = f"{one['callers']} callers, timeout {one['timeout'] * 1000:.0f} ms: " + "; ".join(told) + "."
    return write(figure, "bench-latency", "When each strategy has its answer", words)


def concurrency(section: Section) -> Path:
    """Above, good answers per second; below, the share that came late. A column for each route."""
    windows = section["windows"]
    routes = list(dict.fromkeys(window["load"]["routes"][0] for window in windows))
    servers = [name for name in NAMES if any(window["server"] == name for window in windows)]
    callers = sorted({window["load"]["callers"] for window in windows})
    figure, axes = panels(2, len(routes), (3.1 * len(routes) + 0.6, 5.4), sharex=True)
    told = []
    for column, route in enumerate(routes):
        upper, lower = axes[column], axes[len(routes) + column]
        for server in servers:
            mine = sorted(
                (window["load"]["callers"], window["seen"])
                for window in windows
                if window["server"] == server and window["load"]["routes"][0] == route
            )
            look = {
                "color": COLOURS[server],
                "marker": MARKERS[server],
                "linewidth": 2,
                "label": NAMES[server],
            }
            counts = [count for count, _ in mine]
            upper.plot(counts, [seen["good"] / seen["seconds"] for _, seen in mine], **look)
            lower.plot(counts, [_late(seen) for _, seen in mine], **look)
            told += [
                f"{NAMES[server]} on {route} with {count} callers {seen['good'] / seen['seconds']:.0f} good "
                f"answers a second, {_late(seen):.1%} late"
                for count, seen in mine
            ]
        upper.set_title(f"/api/{route}", fontsize=11)
        upper.set_ylim(bottom=0)
        lower.set_ylim(-0.03, 1.03)
        lower.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        lower.set_xscale("log")
        lower.set_xticks(callers, [str(count) for count in callers])
        lower.minorticks_off()
        lower.set_xlabel("callers")
    axes[0].set_ylabel("good answers a second")
    axes[len(routes)].set_ylabel("later than timeout + 10 ms")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(servers))
    return write(figure, "bench-concurrency", "Goodput and lateness against callers", "; ".join(told) + ".")


def _late(seen: Section) -> float:
    return float((seen["late"] + seen["unanswered"]) / max(1, seen["sent"]))


def overload(section: Section) -> Path:
    """On the left, goodput against arrivals; on the right, second by second, a load that rises and falls."""
    capacity = section["figures"]["capacity"]
    figure, [left, right] = panels(1, 2, (9.5, 4.2))
    told = []
    for server, full in capacity.items():
        mine = [window["seen"] for window in section["windows"] if window["server"] == server]
        *floods, step = mine
        points = sorted((seen["sent"] / seen["seconds"] / full, _goodput(seen) / full) for seen in floods)
        look = {"color": COLOURS[server], "linewidth": 2, "label": NAMES[server]}
        left.plot(*zip(*points, strict=True), marker=MARKERS[server], **look)
        told += [
            f"{NAMES[server]} keeps {good:.0%} of its capacity at {load:.1f} times" for load, good in points
        ]
        kept = [second["good"] / full for second in step["series"]]
        right.stairs(kept, list(range(len(kept) + 1)), baseline=None, **look)
    loads = [1, 2, 5, 10]
    left.plot([0.5, 1, 10], [0.5, 1, 1], color=GREY, linestyle="--", label="ideal")
    left.set_xscale("log")
    left.set_xticks(loads, [f"{load} x" for load in loads])
    left.minorticks_off()
    left.set_xlabel("arrivals, as a multiple of the capacity")
    asked = [second["sent"] / full for second in step["series"]]
    ideal = [min(1.0, share) for share in asked]
    right.stairs(ideal, list(range(len(ideal) + 1)), baseline=None, color=GREY, linestyle="--", label="ideal")
    right.set_xlabel(f"seconds ({section['figures']['step'].replace(',', ' →')})")
    for axes in (left, right):
        axes.set_ylim(0, max(1.1, axes.get_ylim()[1]))
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    left.set_ylabel("good answers, of the capacity")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=len(capacity) + 1)
    return write(figure, "bench-overload", "Goodput against arrivals", "; ".join(told) + ".")


def _goodput(seen: Section) -> float:
    return float(seen["good"] / seen["seconds"])


PICTURES = {"latency": latency, "goodput": concurrency, "overload": overload}


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("bench.json")
    sections = json.loads(source.read_text())["sections"]
    for name, draw in PICTURES.items():
        print(draw(sections[name]) if name in sections else f"{name}: not in {source}")
