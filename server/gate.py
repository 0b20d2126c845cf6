"""Whether to take one more request, found by how long it would have to wait for its turn.

Overload is our own queue, not an upstream that takes its time: a request that waits for its upstream costs
nothing. The queue is in the kernel, in the sockets that this turn of the loop has yet to read, and in work
that was promised to those already read; all three are known when a request comes. Plain code that knows no
connection and no clock but the one it is given, so that it can be run in a simulation.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeAlias

from strategies import Verdict
from upstream.admission import Permit, Refusal

CallSoon: TypeAlias = Callable[[Callable[[], None]], object]
"""The loop's ``call_soon``."""

RETRY_AFTER = (1, 2, 3)
"""Seconds after which a caller may come back, drawn by lot, so that those refused together come apart."""
AHEAD = 0.015
"""
Seconds of reading, refusing and promised work that a turn of the loop may come to; the rest of what it finds
on the sockets is refused. Some are taken in every turn, however long the queue: were the wait alone to
decide, refusing would make the queue that is the reason to refuse. In the simulation 15 to 30 ms do equally
much good; the more, the slower are refusals, and the later the answers in a crowd.
"""
OLD = 0.2
OLDEST = 0.1
"""The share of its timeout, and the seconds, that a request may have waited until work on it begins."""
FEW = 8
"""Requests under way that are no queue: then it was something else that held up the loop."""
USEFUL = 0.005
"""Seconds that an answer needs at least; who has less left is refused rather than tried."""
EACH = 100e-6
"""Seconds of work that a request taken brings to the turn, before it has been measured."""
LEARN = 0.1
"""How much one turn counts in that."""


class Turn:
    """
    The loop's current turn: since when it reads requests, and how much work those it took are.

    The first request of a turn notes the time; a callback that comes after all reading ends it, and another,
    one turn later, sees how long the work took.
    """

    def __init__(self, call_soon: CallSoon, clock: Callable[[], float]) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._began: float | None = None
        self._taken = 0
        self._each = EACH

    def run(self, now: float) -> float:
        """For how many seconds this turn has been reading."""
        if self._began is None:
            self._began = now
            self._call_soon(self._read)
            return 0.0
        return now - self._began

    def take(self) -> None:
        """One more request."""
        self._taken += 1

    @property
    def promised(self) -> float:
        """Seconds of work that are waiting for the end of the reading."""
        return self._taken * self._each

    def _read(self) -> None:
        self._began = None
        taken, self._taken = self._taken, 0
        if taken >= FEW:
            before = self._clock()
            self._call_soon(lambda: self._worked(taken, before))

    def _worked(self, taken: int, before: float) -> None:
        # The next turn's reading, if it has begun, is no work of this one.
        until = self._clock() if self._began is None else self._began
        self._each += ((until - before) / taken - self._each) * LEARN


class Gate:
    """
    Takes requests or refuses them; the permit of each that is taken is the gate itself, and is settled once.

    Args:
        lag: by how many seconds the loop was late when it was last looked at.
        rng: the lot for ``Retry-After``.

    Attributes:
        in_flight: requests that were taken and not settled yet.
    """

    def __init__(
        self,
        call_soon: CallSoon,
        clock: Callable[[], float],
        lag: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._turn = Turn(call_soon, clock)
        self._lag = lag
        self._random = rng.random
        self._late = _refusals("wait", "Too many are waiting for their turn.")
        self._old = _refusals("age", "The request has waited for too long.")
        self.in_flight = 0

    def admit(self, now: float, age: Callable[[], float], timeout: Callable[[], float]) -> Permit | Refusal:
        """
        Args:
            age: for how many seconds the request has waited; not asked where the answer is clear without.
            timeout: seconds that its caller gave; only asked when it has waited.
        """
        turn = self._turn
        run = turn.run(now)
        crowded = self.in_flight >= FEW
        if crowded and run + turn.promised > AHEAD:
            return self._refuse(self._late)
        if waited := age():
            seconds = timeout()
            waited += turn.promised
            too_old = crowded and waited > min(OLD * seconds, OLDEST)
            if too_old or waited + self._lag() + USEFUL > seconds:
                return self._refuse(self._old)
        turn.take()
        self.in_flight += 1
        return self

    def settle(self, verdict: Verdict, now: float) -> None:
        """A request is answered, well or badly: it is not its outcome that is watched."""
        self.in_flight -= 1

    def _refuse(self, refusals: tuple[Refusal, ...]) -> Refusal:
        return refusals[int(self._random() * len(refusals))]


def _refusals(reason: str, detail: str) -> tuple[Refusal, ...]:
    """One for each number of seconds in `RETRY_AFTER`, made beforehand: a refusal has to be cheap."""
    return tuple(Refusal(reason, seconds, detail) for seconds in RETRY_AFTER)
