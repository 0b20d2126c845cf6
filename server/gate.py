"""Who is taken, who waits for a turn, and who is refused: a line of requests in front of the work.

Overload is our own queue, not an upstream that takes its time: a request that waits for its upstream costs
nothing. So each turn of the loop begins a few milliseconds of work, and who comes on top of that stands in
line. The youngest go first: in a burst all get their turn at once; in an overload those taken are answered as
if there were none, and the others are refused after a moment, instead of all being late. Who is back before
the time that a refusal told him stands in a line of his own, where it is long until the next. Plain code
that knows no connection and no clock but the one it is given, so that it can be run in a simulation.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeAlias

from strategies import Verdict
from upstream.admission import Refusal

CallSoon: TypeAlias = Callable[[Callable[[], None]], object]
"""The loop's ``call_soon``."""

RETRY_AFTER = (1, 2, 3)
"""Seconds after which a caller may come back, drawn by lot, so that those refused together come apart."""
TURN = 0.003
"""
Seconds of work that a turn of the loop may begin. An attempt takes some six turns of its own (to begin, to
connect, to be answered), and in a crowd a turn is three times as long as the work in it, for the refusals.
"""
WAIT = 0.025
"""Seconds in line after which a request is refused: enough for 250 callers in one instant."""
LONG_WAIT = 0.25
"""
Seconds in line for who is back too early, and has the time. A refusal costs a third of a request, and 4000
callers who ask again 100 ms after each would take the whole core, only to be refused.
"""
FEW = 8
"""Requests under way that are no queue: then it was something else that held up the loop."""
USEFUL = 0.005
"""Seconds that an answer needs at least; who has less left is refused rather than tried."""
EACH = 100e-6
LEAST, MOST = 50e-6, TURN / FEW
"""
Seconds of work that a request begins: until it has been measured, and what is believed of the measure: in a
crowd much else happens in a turn, and one that began fewer than `FEW` would teach nothing.
"""
LEARN = 0.1
"""How much one turn counts in that."""


class Guest(Protocol):
    """A request at the gate. It is told one of the two, once, unless it has gone."""

    @property
    def gone(self) -> bool:
        """Whether nobody wants it any more."""

    def can_wait(self, now: float, seconds: float) -> bool:
        """Whether its caller was told to be back later than *now*, and has *seconds* to wait."""

    def hopeless(self, now: float, need: float) -> bool:
        """
        Whether it has waited, and has less than *need* seconds left. Asked when it is its turn, for it costs
        a system call. Who never had more is no matter of ours: its route says what it gets.
        """

    def begin(self) -> None:
        """It is taken. `Gate.settle` when it has been answered."""

    def refuse(self, refusal: Refusal) -> None:
        """It is not."""


class Gate:
    """
    Args:
        lag: by how many seconds the loop was late when it was last looked at.
        rng: the lot for ``Retry-After``.

    Attributes:
        in_flight: requests that were taken and not settled yet.
    """

    def __init__(
        self, call_soon: CallSoon, clock: Callable[[], float], lag: Callable[[], float], rng: random.Random
    ) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._lag = lag
        self._random = rng.random
        self._crowd = _refusals("wait", "Too many are waiting for their turn.")
        self._old = _refusals("age", "The request has waited until it could not be answered in time.")
        self._line: deque[tuple[float, Guest]] = deque()  # and since when
        self._early: deque[tuple[float, Guest]] = deque()  # those who are back too early
        self._begun = 0  # in this turn
        self._reading: float | None = None  # since when this turn reads requests
        self._turning = False
        self._each = EACH
        self.in_flight = 0

    def enter(self, guest: Guest, now: float) -> None:
        """*guest* is here: it is told, now or in one of the next turns."""
        if self._reading is None:
            self._reading = now
        if not self._turning:
            self._turning = True
            self._call_soon(self._turn)
        if self._begun * self._each < TURN and not (self._line or self._early):
            self._admit(guest, now)
        else:
            line = self._early if guest.can_wait(now, LONG_WAIT) else self._line
            line.append((now, guest))

    def settle(self, verdict: Verdict, now: float) -> None:
        """A `upstream.admission.Permit`: a request is answered. It is not its outcome that is watched."""
        self.in_flight -= 1

    def _turn(self) -> None:
        """All that came has been read; those in line are next."""
        try:
            self._serve_line(self._clock())
        finally:  # whatever a guest does, there is a next turn for the others
            begun, self._begun = self._begun, 0
            self._reading = None
            self._turning = bool(self._line or self._early)
            if begun >= FEW:
                since = self._clock()
                self._call_soon(lambda: self._learn(begun, since))
            if self._turning:
                self._call_soon(self._turn)

    def _serve_line(self, now: float) -> None:
        room = max(1, int(TURN / self._each)) - self._begun
        for line, wait in ((self._line, WAIT), (self._early, LONG_WAIT)):
            while line and (room > 0 or self.in_flight < FEW):
                _, guest = line.pop()
                room -= self._admit(guest, now)
            while line and now - line[0][0] > wait:
                _, guest = line.popleft()
                if not guest.gone:
                    self._refuse(guest, self._crowd)

    def _admit(self, guest: Guest, now: float) -> bool:
        if guest.gone:
            return False
        if guest.hopeless(now, self._lag() + USEFUL):
            self._refuse(guest, self._old)
            return False
        self._begun += 1
        self.in_flight += 1
        guest.begin()
        return True

    def _refuse(self, guest: Guest, refusals: tuple[Refusal, ...]) -> None:
        guest.refuse(refusals[int(self._random() * len(refusals))])

    def _learn(self, begun: int, since: float) -> None:
        """What was begun has run by now. The next turn's reading, which may have begun, does not count."""
        until = self._clock() if self._reading is None else self._reading
        each = min(max(LEAST, (until - since) / begun), MOST)
        self._each += (each - self._each) * LEARN


def _refusals(reason: str, detail: str) -> tuple[Refusal, ...]:
    """One for each number of seconds in `RETRY_AFTER`, made beforehand: a refusal has to be cheap."""
    return tuple(Refusal(reason, seconds, detail) for seconds in RETRY_AFTER)
