"""Where losers go: attempts that nobody waits for end here, off the way of the answer.

Waiting for a cancelled call to clean up would make the answer late (a deadline of 0.1 s became 1.1 s with
``asyncio.timeout`` and a child that needs a second to close), and forgetting it would leak. So the
application owns one reaper: it keeps every loser until it has ended, counts those that will not, and says
when there are too many. It knows no strategy and no upstream.

Losers get a moment's grace before they are cancelled, all together. HTTP/1.1 has no cancel: a cancelled call
costs its connection, and one that ends by itself within the moment keeps it. And when a hundred deadlines end
in one instant, the hundred answers are written before the first connection is torn down.
"""

from __future__ import annotations

import asyncio
from collections import deque

from strategies.outcome import Answered
from strategies.pending import Coming, listen

PORTION = 4
"""Losers cancelled in one go, at least."""
PAUSE = 0.004
"""Seconds between two portions, for answers to come in between."""


class Reaper:
    """
    Owns cancelled attempts until they have ended.

    Args:
        limit: this many losers still winding down make the reaper `full`; fan-outs then start no extra
            attempts, because each could add one more.
        grace: seconds that a loser may still use to end by itself.
        patience: seconds after which a loser that has not ended counts as a zombie.

    Attributes:
        refused: hedges that were not started because it was full.
    """

    def __init__(self, *, limit: int = 10_000, grace: float = 0.03, patience: float = 5.0) -> None:
        self._limit = limit
        self._grace = grace
        self._patience = patience
        self._losers: dict[Coming, float] = {}
        self._fresh: deque[Coming] = deque()
        self.refused = 0

    @property
    def pending(self) -> int:
        """Losers that have not ended yet."""
        return len(self._losers)

    @property
    def full(self) -> bool:
        """Whether extra attempts should wait for better times."""
        return len(self._losers) >= self._limit

    def allows_hedge(self) -> bool:
        """Whether one more extra attempt may start; a no is counted in `refused`."""
        self.refused += self.full
        return not self.full

    def zombies(self, now: float) -> int:
        """Losers that lost more than *patience* seconds before *now* and still run."""
        return sum(taken + self._patience < now for taken in self._losers.values())

    def take(self, loser: Coming, now: float) -> None:
        """Keep *loser* until it has ended, and cancel it if it does not within the grace."""
        self._losers[loser] = now
        listen(loser, self._bury)
        if not self._fresh:
            loser.get_loop().call_later(self._grace, self._sweep, loser.get_loop())
        self._fresh.append(loser)

    async def aclose(self, within: float) -> int:
        """Wait up to *within* seconds for the rest; return how many would not end."""
        while self._fresh:
            self._fresh.popleft().cancel()
        if self._losers:
            await asyncio.wait(self._losers, timeout=within)
        return len(self._losers)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel those that have had their grace, in portions: each takes up to 0.2 ms of the loop."""
        due = loop.time() - self._grace
        portion = max(PORTION, len(self._fresh) // 16)
        while self._fresh and portion and self._losers.get(self._fresh[0], 0.0) <= due + PAUSE:
            self._fresh.popleft().cancel()
            portion -= 1
        if self._fresh:
            loop.call_later(PAUSE, self._sweep, loop)

    def _bury(self, loser: Coming) -> None:
        del self._losers[loser]
        if loser.cancelled():
            return
        if error := loser.exception():  # a fault would be an outcome: this is a bug, and must be heard
            loser.get_loop().call_exception_handler(
                {"message": "an attempt raised after it had lost", "exception": error, "future": loser}
            )
        elif isinstance(outcome := loser.result(), Answered):
            outcome.close()
