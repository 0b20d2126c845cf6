"""The parts of the benchmark, each a question: one module, one `run`, one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.rig import Bench, Window, wrong
from benchmarks.servers import Server
from benchmarks.table import render
from benchmarks.targets import Judged


@dataclass(frozen=True)
class Plan:
    """
    How thoroughly, and against whom.

    Attributes:
        minutes: the soak's length.
        schedule: the step of the overload, such as ``0.5x 4s, 10x 4s, 0.5x 8s``; empty for the usual one.
        connections: that the callers of an open loop may have at a time.
        go_smart: microseconds of CPU that Go needs for smart on this machine, once it is known.
        real: overload over the real upstream, too, instead of one of 50 ms.
    """

    bench: Bench
    peers: tuple[Server, ...]
    quick: bool = False
    shedding: bool = True
    minutes: float = 10.0
    schedule: str = ""
    real: bool = False
    connections: int = 4000
    go_smart: float | None = None


@dataclass(frozen=True)
class Report:
    """What a section found: a table, its targets, and all windows as they were."""

    name: str
    title: str
    titles: Sequence[str]
    rows: Sequence[Sequence[object]]
    legend: str
    judged: Sequence[Judged] = ()
    windows: Sequence[Window] = ()
    figures: dict[str, object] = field(default_factory=dict)
    """What a picture needs besides the windows."""
    keeps: frozenset[str] = frozenset()
    """Which of the long lists of a window (``series``, ``cdf``) are kept with the results."""

    @property
    def wrong(self) -> list[str]:
        """What our server must never do."""
        return [what for window in self.windows if window.server == "hedgerow" for what in wrong(window)]

    def text(self) -> str:
        """To be read by people."""
        verdicts = [str(one) for one in self.judged]
        return "\n".join(
            ["", self.title, "", render(self.titles, self.rows), self.legend, *verdicts, *self.wrong]
        )


def mark(windows: Sequence[Window]) -> str:
    """The most that others used meanwhile, with a star when that is too much."""
    foreign = max(window.foreign for window in windows)
    return f"{foreign:.2f}{'*' if any(window.noisy for window in windows) else ''}"


def shown(number: float | None, form: str = ".1f") -> str:
    """A number that may be missing."""
    return "-" if number is None else format(number, form)
