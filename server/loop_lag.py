"""How late the event loop is: the one delay that is ours and not the upstream's.

A timer that should fire every 20 ms tells by how much it was late. The recent worst is part of what is kept
back of a caller's timeout (`server.reserve`), and while it is large nobody gets extra attempts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PERIOD = 0.02
DECAY = 0.972
"""Per tick; the memory of a stall halves in half a second."""


class LoopLag:
    """Measures while started. *observe* is told each lag in seconds; *recent* is the worst, fading."""

    def __init__(self, observe: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._observe = observe
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self.latest = self.recent = 0.0

    def start(self) -> None:
        """Begin, on the running loop."""
        self._schedule(asyncio.get_running_loop())

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        lag = self.latest = max(0.0, self._clock() - due)
        self.recent = max(lag, self.recent * DECAY)
        self._observe(lag)
        self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = self._clock() + PERIOD
        self._timer = loop.call_at(due, self._tick, loop, due)
