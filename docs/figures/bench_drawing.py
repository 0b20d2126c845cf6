"""What the pictures of the benchmarks have in common: their look, their colours, and how they are written.

Requirements: matplotlib 3.9 or later, in a virtual environment of its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATIC = Path(__file__).parents[1] / "_static"

COLOURS = {
    "hedgerow": "#2c5d8f",
    "go": "#b3392b",
    "aiohttp": "#a8741a",
    "fastapi": "#6b7a88",
}
MARKERS = {"hedgerow": "o", "go": "s", "aiohttp": "^", "fastapi": "v"}
NAMES = {"hedgerow": "Hedgerow", "go": "Go", "aiohttp": "plain aiohttp", "fastapi": "FastAPI + httpx"}
GREY = "#6b7a88"

matplotlib.rcParams.update(
    {
        "svg.hashsalt": "hedgerow",
        "svg.fonttype": "none",
        "font.size": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e4e9ed",
        "axes.axisbelow": True,
        "legend.frameon": False,
    }
)


def panels(
    rows: int, columns: int, size: tuple[float, float], **given: bool | str
) -> tuple[Figure, list[Axes]]:
    """An empty picture of *size* in inches, and its panels, row by row."""
    figure, grid = pyplot.subplots(
        rows, columns, figsize=size, layout="constrained", facecolor="white", squeeze=False, **given
    )
    return figure, list(grid.flat)


def write(figure: Figure, name: str, title: str, description: str) -> Path:
    """The picture as SVG, with a title and a description for those who cannot see it."""
    path = STATIC / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    svg = path.read_text("utf-8")
    head = svg.index(">", svg.index("<svg ")) + 1
    words = f"\n <title>{escape(title)}</title>\n <desc>{escape(description)}</desc>"
    whole = re.sub(r"[ \t]+$", "", svg[:head] + words + svg[head:], flags=re.MULTILINE)
    path.write_text(whole, "utf-8")
    pyplot.close(figure)
    return path
