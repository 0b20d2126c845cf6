"""Draws ``docs/_static/bench-hedging.svg``: what each hedging policy brings, and what it costs.

    python -m venv /tmp/figures && /tmp/figures/bin/pip install "matplotlib>=3.9" -r requirements.txt
    /tmp/figures/bin/python docs/figures/bench_hedging.py

The simulations are those of ``python -m benchmarks.hedging``: seeded, on virtual time, asked by the very
strategies that serve the routes. It takes about a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[1])]

from bench_drawing import COLOURS, GREY, panels, write  # noqa: E402 - beside us

from benchmarks.hedging import (  # noqa: E402 - found by the lines above
    Seen,
    adaptive,
    ask_in_turn,
    bimodal,
    fan_out,
    fixed,
    no_hedge,
    oracle,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REQUESTS, ROOTS = 10_000, 300
RATIOS = (0.02, 0.05, 0.1)
DELAYS = (0.006, 0.008, 0.010, 0.015, 0.025, 0.050)
LEAF_DELAYS = (0.012, 0.015, 0.020, 0.030, 0.050)
Family = tuple[str, str, str, list[Seen]]


def alone() -> list[Family]:
    """One call of which one in twenty takes ten times as long."""
    timeout = 30.0
    ours = [ask_in_turn(adaptive(ratio), bimodal, REQUESTS, timeout) for ratio in RATIOS]
    return [
        ("no hedge", GREY, "D", [ask_in_turn(no_hedge(), bimodal, REQUESTS, timeout)]),
        (
            "fixed delay",
            COLOURS["go"],
            "s",
            [ask_in_turn(fixed(d), bimodal, REQUESTS, timeout) for d in DELAYS],
        ),
        ("adaptive, with a budget", COLOURS["hedgerow"], "o", ours),
        ("oracle", "#2f7d46", "*", [oracle(bimodal, REQUESTS, timeout, ratio) for ratio in RATIOS]),
    ]


def together() -> list[Family]:
    """A hundred calls, all needed, of which one in a hundred takes a hundred times as long."""
    return [
        ("no hedge", GREY, "D", [fan_out(no_hedge(), ROOTS)]),
        ("fixed delay", COLOURS["go"], "s", [fan_out(fixed(delay), ROOTS) for delay in LEAF_DELAYS]),
        (
            "adaptive, with a budget",
            COLOURS["hedgerow"],
            "o",
            [fan_out(adaptive(ratio, burst=50), ROOTS) for ratio in RATIOS],
        ),
    ]


def show(axes: Axes, families: Sequence[Family], title: str) -> str:
    """Each policy a point: extra calls to the right, p99 upwards. In words, too."""
    told = []
    for name, colour, marker, seen in families:
        points = sorted((100 * one.extra, one.quantile(0.99)) for one in seen)
        axes.plot(
            *zip(*points, strict=True), color=colour, marker=marker, markersize=7, linewidth=1.5, label=name
        )
        told += [f"{name}, {extra:.1f} % more calls: {ms:.0f} ms" for extra, ms in points]
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("extra calls, %")
    axes.set_ylim(bottom=0)
    return f"{title}: " + "; ".join(told)


def draw() -> Path:
    """The picture."""
    worlds: list[tuple[Callable[[], list[Family]], str]] = [
        (alone, "one call; 5 % take ten times as long"),
        (together, "100 calls, all needed; 1 % take 100 times as long"),
    ]
    figure, axes = panels(1, 2, (9.5, 4.2))
    told = [show(one, world(), title) for one, (world, title) in zip(axes, worlds, strict=True)]
    axes[0].set_ylabel("p99, ms")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return write(figure, "bench-hedging", "p99 against extra calls", ". ".join(told) + ".")


if __name__ == "__main__":
    print(draw())
