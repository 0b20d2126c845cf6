"""The results as a table in plain text: numbers to the right, words to the left."""

from __future__ import annotations

from collections.abc import Sequence


def render(titles: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """The table; floats get one decimal below 100, none from there on."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    numeric = [all(not isinstance(row[i], str) for row in rows) for i in range(len(titles))]

    def line(texts: Sequence[str]) -> str:
        aligned = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([line(titles), line(["-" * width for width in widths]), *map(line, cells)])


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.1f}" if abs(cell) < 100 else f"{cell:.0f}"
    return str(cell)
