"""How long a caller may take to say what it wants: one `Patience` for heads, one for bodies.

A byte now and then would hold a connection for ever. All heads may take equally long, so who began first is
overdue first: a queue and one timer do for all connections, and a request that comes in one piece never
enters it. Nothing here knows HTTP or closes anything; who is overdue is told so, and acts.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

Overdue: TypeAlias = Callable[[], None]
"""Told once, when the time is over. It is also the name under which the time runs: one per connection."""

PORTION = 100
"""Callers told in one turn of the loop, about 2 ms, while requests wait."""


class Patience:
    """
    Args:
        seconds: how long each may take; infinity for as long as they like.
        loop: whose clock it is.
    """

    def __init__(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._seconds = seconds
        self._loop = loop
        self._due: OrderedDict[Overdue, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, overdue: Overdue) -> None:
        """The time of *overdue* runs from now on; if it was running, it starts again."""
        self._due.pop(overdue, None)
        at = self._loop.time() + self._seconds
        if at == math.inf:
            return
        self._due[overdue] = at
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._ring)

    def end(self, overdue: Overdue) -> None:
        """*overdue* is in time, or gone. It need not have begun."""
        self._due.pop(overdue, None)

    def close(self) -> None:
        """Nobody is overdue any more."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        now = self._loop.time()
        told: list[Overdue] = []
        while self._due and len(told) < PORTION and next(iter(self._due.values())) <= now:
            told.append(self._due.popitem(last=False)[0])
        self._timer = None
        if self._due:  # set before anybody is told, who may begin anew or fail
            self._timer = self._loop.call_at(next(iter(self._due.values())), self._ring)
        for overdue in told:
            overdue()
