"""One request as the edge sees it: its id, when it came, and what the log will want to know of it."""

from __future__ import annotations

import re
from random import getrandbits

from aiohttp import web

from strategies import Answered, Deadline, Outcome

_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def well_formed(given: str | None) -> str | None:
    """The id that a caller gave, if it may be repeated."""
    return given if given and _ID.fullmatch(given) else None


def new_id() -> str:
    """
    A UUID as `uuid.uuid4` makes it, for 1 µs instead of 4: an id is no secret, so nobody asks the kernel.

    The generator is Python's own, which starts anew in a forked process; a copied one would give two workers
    the same ids.
    """
    digits = f"{getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


class Exchange:
    """
    Attributes:
        id: the caller's ``X-Request-Id`` if it is well-formed, else a new UUID.
        arrived: when the request came, in seconds of the loop's clock. Deadlines count from here.
        route: the name of its route, for metrics and log; never a path that a caller invents.
        reason: in one word, what became of it.
        due: when the caller wants the answer.
        outcomes, winner: what the strategies of this request came to.
    """

    __slots__ = ("arrived", "due", "id", "outcomes", "reason", "route", "strategy", "winner")

    def __init__(self, given_id: str | None, arrived: float) -> None:
        self.id = well_formed(given_id) or new_id()
        self.arrived = arrived
        self.route = "other"
        self.strategy: str | None = None
        self.reason = "ok"
        self.due = NEVER
        self.outcomes: tuple[Outcome, ...] = ()
        self.winner: Answered | None = None


NEVER = Deadline.never()
EXCHANGE = web.RequestKey("EXCHANGE", Exchange)
