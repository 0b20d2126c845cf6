"""Draws ``docs/_static/breaker-over-time.svg``: an outage of a minute, seen by a circuit.

    python -m venv /tmp/figures && /tmp/figures/bin/pip install "matplotlib>=3.9"
    /tmp/figures/bin/python docs/figures/breaker_over_time.py

Requirements: matplotlib 3.9 or later for the drawing. The simulation needs the standard library alone: it is
the real breaker behind the real admission layer, on virtual time, with its default options but no jitter.
``tests/test_docs.py`` runs it and compares what it tells with the page.
"""

from __future__ import annotations

import asyncio
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS.parent))

from strategies import Answered, Attempt, Deadline, Failed, Outcome, Rejected, Verdict  # noqa: E402
from strategies.testing import request_for, run_virtual  # noqa: E402
from upstream.admission import admission  # noqa: E402
from upstream.breaker import BreakerOptions, CircuitBreaker, State  # noqa: E402

TARGET = DOCS / "_static" / "breaker-over-time.svg"
RATE, SECONDS = 20, 120
"""Calls a second, and for how long."""
DOWN, UP = 20.0, 80.0
"""The upstream fails every call from the one until the other."""
LATENCY = 0.1
HEIGHTS = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


@dataclass
class Story:
    """What happened, in seconds."""

    callers: int = 0
    reached: list[float] = field(default_factory=list)
    failed: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    changes: list[tuple[float, State]] = field(default_factory=lambda: [(0.0, State.CLOSED)])


def simulate() -> Story:
    """The story with a breaker."""
    story = Story()

    async def fetch(attempt: Attempt) -> Outcome:
        started = _now()
        story.reached.append(started)
        await asyncio.sleep(LATENCY)
        if DOWN <= started < UP:
            story.failed.append(started)
            return Failed(attempt, started, _now(), "reset")
        return Answered(attempt, started, _now(), Verdict.SUCCESS, None)

    async def one(guarded: Any) -> None:
        story.callers += 1
        request = request_for(1)
        outcome = await guarded(Attempt(request, request.targets[0], 0, Deadline.after(30, now=_now())))
        if isinstance(outcome, Rejected):
            story.refused.append(outcome.started)

    async def play() -> None:
        circuit = CircuitBreaker(BreakerOptions(jitter=0), random.Random(0))
        circuit.listen(lambda before, after, now: story.changes.append((now, after)))
        guarded = admission(fetch, lambda attempt: circuit, _now, fair_time=1.0)
        async with asyncio.TaskGroup() as group:
            for number in range(RATE * SECONDS):
                await asyncio.sleep(number / RATE - _now())
                group.create_task(one(guarded))

    run_virtual(play())
    return story


def _now() -> float:
    return asyncio.get_running_loop().time()


def told(story: Story) -> str:
    """The story in a few lines."""
    lines = [f"{when:7.2f} s  {state.value}" for when, state in story.changes[1:]]
    lines.append(f"{story.callers} callers, of whom {len(story.refused)} were refused")
    lines.append(f"calls that reached the upstream while it was down: {len(story.failed)} of {outage()}")
    return "\n".join(lines)


def outage() -> int:
    """Calls that would have met the outage without a breaker."""
    return round((UP - DOWN) * RATE)


def per_second(moments: list[float]) -> list[int]:
    """How many in each second."""
    counts = [0] * SECONDS
    for moment in moments:
        counts[int(moment + 1e-6)] += 1  # the clock adds up floats
    return counts


def draw(story: Story) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams.update(
        {"svg.hashsalt": "hedgerow", "svg.fonttype": "none", "font.size": 11, "axes.spines.top": False}
    )
    figure, (upper, lower) = pyplot.subplots(
        2, 1, sharex=True, figsize=(9, 5), height_ratios=(2, 1), layout="constrained", facecolor="white"
    )
    edges = list(range(SECONDS + 1))
    upper.set_ylabel("calls a second\nthat reach the upstream")
    upper.stairs([RATE] * SECONDS, edges, color="#6b7a88", linestyle="--", label="without a breaker")
    upper.stairs(per_second(story.reached), edges, fill=True, color="#79b4ee", label="with a breaker")
    upper.set_ylim(0, 32)
    upper.set_yticks([0, 10, RATE])
    share = upper.twinx()
    share.set_ylabel("share of its answers\nthat are failures", color="#b3392b")
    share.plot(
        [0, DOWN, DOWN, UP, UP, SECONDS], [0, 0, 1, 1, 0, 0], color="#b3392b", label="share of failures"
    )
    share.set_ylim(0, 1.25)
    share.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    lines = [*upper.get_legend_handles_labels()[0], *share.get_legend_handles_labels()[0]]
    upper.legend(handles=lines, loc="upper center", ncols=3, frameon=False)

    times = [when for when, _ in story.changes] + [float(SECONDS)]
    heights = [HEIGHTS[state] for _, state in story.changes]
    lower.stairs(heights, times, baseline=None, color="#2c5d8f", linewidth=2)
    lower.set_yticks(list(HEIGHTS.values()), [state.value.replace("_", "-") for state in HEIGHTS])
    lower.set_ylim(-0.3, 2.4)
    lower.spines.right.set_visible(False)
    lower.set_xlim(0, SECONDS)
    lower.set_xlabel("seconds")
    lower.set_ylabel("circuit")
    figure.savefig(TARGET, metadata={"Date": None, "Creator": None})
    TARGET.write_text(_described(TARGET.read_text("utf-8")), "utf-8")


def _described(svg: str) -> str:
    """*svg* with a title and a description for those who cannot see it, and no blank at a line's end."""
    head = svg.index(">", svg.index("<svg ")) + 1
    words = (
        "\n <title>A circuit during an outage of a minute</title>\n <desc>The upstream fails from 20 to 80 "
        "seconds. Without a breaker it gets 20 calls a second all the time. With one it gets next to none "
        "from 20.2 s on: the circuit opens for 10, 20 and 40 seconds, with a failed probe after each of the "
        "first two, and closes after 90 seconds.</desc>"
    )
    return "\n".join(line.rstrip() for line in (svg[:head] + words + svg[head:]).splitlines()) + "\n"


if __name__ == "__main__":
    seen = simulate()
    print(told(seen))
    draw(seen)
