"""How much of a caller's timeout is kept back, so that the answer is at the caller in time.

A timer set to the very end fires on time, and the answer is then late by what it takes to write it; and when
a hundred callers asked in one instant, the last of their answers is late by a hundred times that. So each
answer that may be due gets an appointment: the latest slot of a few milliseconds before its end that still
has room. Callers who come one by one lose 3 ms; those of a burst are spread out ahead of their common end.
"""

from __future__ import annotations

from collections.abc import Callable

SLOT = 0.005
"""Seconds of one slot."""
ROOM = 16
"""Answers that can be written in a slot: 300 µs each, error documents included."""
LEAST = 0.003
"""Seconds kept back at least."""
MOST = 0.1
"""Share of a timeout kept back at most: a caller with 5 ms wants them used."""


class Appointments:
    """
    Args:
        lag: how late the loop has lately been, in seconds.
    """

    def __init__(self, lag: Callable[[], float]) -> None:
        self._lag = lag
        self._taken: dict[int, int] = {}

    @property
    def pending(self) -> int:
        """Slots with an appointment."""
        return len(self._taken)

    def take(self, due: float, timeout: float) -> tuple[float, int]:
        """
        The instant by which to have the answer to a request that is *due* (and had *timeout* seconds), and
        the slot to give back when it is answered.
        """
        latest = due - min(LEAST + 1.5 * self._lag(), MOST * timeout)
        slot = last = int(latest / SLOT)
        earliest = int((due - MOST * timeout) / SLOT)
        taken = self._taken
        while taken.get(slot, 0) >= ROOM and slot > earliest:
            slot -= 1
        taken[slot] = taken.get(slot, 0) + 1
        return (latest if slot == last else (slot + 1) * SLOT), slot

    def give_back(self, slot: int) -> None:
        """The request of that slot has been answered."""
        left = self._taken[slot] - 1
        if left:
            self._taken[slot] = left
        else:
            del self._taken[slot]
