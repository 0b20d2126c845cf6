"""Where losers go: attempts that nobody waits for are cancelled here, off the way of the answer.

Waiting for a cancelled call to clean up would make the answer late (a deadline of 0.1 s became 1.1 s with
``asyncio.timeout`` and a child that needs a second to close), and forgetting it would leak. So the
application owns one reaper: it keeps every loser until it has ended, counts those that will not, and says
when there are too many. It knows no strategy and no upstream.
"""

from __future__ import annotations

import asyncio

from strategies.outcome import Answered, Outcome


class Reaper:
    """
    Owns cancelled attempts until they have ended.

    Args:
        limit: this many losers still winding down make the reaper `full`; fan-outs then start no extra
            attempts, because each could add one more.
        patience: seconds after which a loser that has not ended counts as a zombie.
    """

    def __init__(self, *, limit: int = 10_000, patience: float = 5.0) -> None:
        self._limit = limit
        self._patience = patience
        self._losers: dict[asyncio.Future[Outcome], float] = {}

    @property
    def pending(self) -> int:
        """Losers that have not ended yet."""
        return len(self._losers)

    @property
    def full(self) -> bool:
        """Whether extra attempts should wait for better times."""
        return len(self._losers) >= self._limit

    def zombies(self, now: float) -> int:
        """Losers that were cancelled more than *patience* seconds before *now* and still run."""
        return sum(taken + self._patience < now for taken in self._losers.values())

    def take(self, loser: asyncio.Future[Outcome], now: float) -> None:
        """Cancel *loser* and keep it until it has ended."""
        self._losers[loser] = now
        loser.add_done_callback(self._bury)
        loser.cancel()

    async def aclose(self, within: float) -> int:
        """Wait up to *within* seconds for the rest; return how many would not end."""
        if self._losers:
            await asyncio.wait(self._losers, timeout=within)
        return len(self._losers)

    def _bury(self, loser: asyncio.Future[Outcome]) -> None:
        del self._losers[loser]
        if loser.cancelled():
            return
        if error := loser.exception():  # a fault would be an outcome: this is a bug, and must be heard
            loser.get_loop().call_exception_handler(
                {"message": "an attempt raised after it had lost", "exception": error, "future": loser}
            )
        elif isinstance(outcome := loser.result(), Answered):
            outcome.close()
