"""Draws ``docs/_static/breaker-states.svg`` from the table of moves in `upstream.breaker`.

    python docs/figures/breaker_states.py

Requirements: none but the standard library. Arrows and their words come from ``MOVES``; only where things
stand is said here. A move that has no place here stops the drawing, and ``tests/test_docs.py`` compares the
file with a fresh drawing, so that the picture cannot go stale.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).parents[1]
sys.path.insert(0, str(DOCS.parent))

from upstream.breaker import MOVES, Event, State  # noqa: E402 - found by the line above

TARGET = DOCS / "_static" / "breaker-states.svg"

BOXES: dict[State, tuple[int, int, str, str]] = {
    State.CLOSED: (40, 40, "good", "calls go out, failures are counted"),
    State.OPEN: (500, 40, "bad", "calls are refused at once"),
    State.HALF_OPEN: (270, 226, "wary", "one probe is out, others are refused"),
}
"""Left, top, look, and what it means."""
WIDTH, HEIGHT = 260, 84

ARROWS: dict[tuple[State, Event], tuple[str, int, int, str]] = {
    (State.CLOSED, Event.TRIPPED): ("M300 82 H494", 397, 70, "middle"),
    (State.OPEN, Event.WAITED): ("M690 124 V268 H536", 700, 206, "start"),
    (State.HALF_OPEN, Event.PROBE_FAILED): ("M450 226 V166 H590 V130", 520, 158, "middle"),
    (State.HALF_OPEN, Event.PROBE_SUCCEEDED): ("M270 268 H110 V130", 100, 206, "end"),
}
"""Path, and where its words stand."""

STYLE = """
    .page { fill: #ffffff; stroke: #d5dbe1; }
    .good { fill: #e3f1e6; stroke: #2f7d46; stroke-width: 1.8; }
    .bad { fill: #fbe6e3; stroke: #b3392b; stroke-width: 1.8; }
    .wary { fill: #fdf3e1; stroke: #a8741a; stroke-width: 1.8; }
    text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1d2730; }
    .name { font-size: 18px; font-weight: 600; text-anchor: middle; }
    .say { font-size: 13px; text-anchor: middle; fill: #43525f; }
    .event { font-size: 14px; }
    .move { stroke: #2c5d8f; stroke-width: 2; fill: none; marker-end: url(#head); }
    .head { fill: #2c5d8f; }
    @media (prefers-color-scheme: dark) {
      .page { fill: #171c21; stroke: #39434d; }
      .good { fill: #1f3a28; stroke: #6cc486; }
      .bad { fill: #43211d; stroke: #f08a7c; }
      .wary { fill: #3b2f18; stroke: #e0ae58; }
      text { fill: #edf2f6; }
      .say { fill: #c3ced8; }
      .move { stroke: #79b4ee; } .head { fill: #79b4ee; }
    }
"""


def draw() -> str:
    """The picture, as SVG."""
    told = "; ".join(
        f"{name(before)} to {name(after)} when {event.value}" for (before, event), after in MOVES.items()
    )
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 340" role="img" '
            'aria-labelledby="title desc">',
            '  <title id="title">The states of a circuit, and what moves it</title>',
            f'  <desc id="desc">{escape(told)}.</desc>',
            f"  <style>{STYLE}  </style>",
            "  <defs>",
            '    <marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
            'markerUnits="userSpaceOnUse" orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker>',
            "  </defs>",
            '  <rect class="page" x="1" y="1" width="858" height="338" rx="10"/>',
            *(_box(state) for state in State),
            *(_arrow(before, event) for before, event in MOVES),
            "</svg>",
            "",
        ]
    )


def name(state: State) -> str:
    """As people say it."""
    return state.value.replace("_", "-")


def _box(state: State) -> str:
    left, top, look, meaning = BOXES[state]
    middle = left + WIDTH // 2
    return "\n".join(
        [
            f'  <rect class="{look}" x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>',
            f'  <text class="name" x="{middle}" y="{top + 36}">{name(state)}</text>',
            f'  <text class="say" x="{middle}" y="{top + 60}">{escape(meaning)}</text>',
        ]
    )


def _arrow(before: State, event: Event) -> str:
    path, x, y, anchor = ARROWS[before, event]
    first, *rest = _lines(event.value)
    words = escape(first) + "".join(f'<tspan x="{x}" dy="18">{escape(line)}</tspan>' for line in rest)
    return "\n".join(
        [
            f'  <path class="move" d="{path}"/>',
            f'  <text class="event" x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>',
        ]
    )


def _lines(words: str) -> list[str]:
    """One line, or two where one would be too long for its place."""
    if len(words) <= 16:
        return [words]
    half = words.rindex(" ", 0, 16)
    return [words[:half], words[half + 1 :]]


if __name__ == "__main__":
    TARGET.write_text(draw(), "utf-8")
    print(TARGET)
