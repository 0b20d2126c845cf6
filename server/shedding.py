"""Whether to take one more request, and how to refuse it for next to nothing.

A server that takes more than it can do answers everybody late. Refusing costs CPU as well: at ten times the
load, 45 µs for each refusal by a handler leave a fifth of it to serve with, 12 µs leave four fifths. So the
decision is made on the bytes, before they are parsed, and the answer is made of parts that are ready. Nothing
here knows a connection: `server.protocol` asks, and a simulation can ask in its place.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

from server.errors import Problem, respond
from server.exchange import Exchange
from server.head import REQUEST_ID, Head
from server.headers import Decorator
from server.limiter import RETRY_AFTER, InFlightLimiter, refusals
from server.plain import date
from upstream.admission import Permit, Refusal

CallSoon: TypeAlias = Callable[[Callable[[], None]], object]
"""The loop's ``call_soon``."""

RUN = 0.010
"""Seconds that a turn of the loop may have read requests before the rest of them is refused."""
AHEAD = 0.070
"""
Seconds that a request may have to wait until its handler starts: in the kernel, and behind those read in the
same turn. The lag tells the same, but later, when the work is taken. In the simulation 20 to 70 ms lose
nothing; more makes refusals slow (99 % within 16, 24 and 40 ms for 20, 40 and 60), less refuses callers who
only come at the same instant: 70 ms take 200 of them.
"""
FEW = 8
"""Requests under way that are no queue: then it was something else that held up the loop."""
START = 0.0003
"""Seconds of CPU from the bytes of a request to its upstream calls being under way, roughly."""
USEFUL = 0.005
"""Seconds that an answer needs at least; who has less left is refused rather than tried."""
CODE = "overloaded"
DETAIL = "The server has more to do than it can in time; come back after 'Retry-After' seconds."


class Turn:
    """
    The loop's current turn: since when it reads requests, and what it has promised to those it took.

    The first one of a turn notes the time, and has it forgotten when the turn comes to run what was read.
    """

    def __init__(self, call_soon: CallSoon) -> None:
        self._call_soon = call_soon
        self._began: float | None = None
        self.promised = 0.0

    def run(self, now: float) -> float:
        """For how many seconds this turn has been reading."""
        if self._began is None:
            self._began = now
            self._call_soon(self._over)
            return 0.0
        return now - self._began

    def _over(self) -> None:
        self._began = None
        self.promised = 0.0


class Gate:
    """Who comes in: an `upstream.admission.AdmissionController` that looks at the loop before the limit."""

    def __init__(self, limiter: InFlightLimiter, call_soon: CallSoon, rng: random.Random) -> None:
        self._limiter = limiter
        self._turn = Turn(call_soon)
        self._random = rng.random
        self._late = refusals("loop", "The loop is behind.")
        self._old = refusals("age", "The request has waited for most of its timeout.")

    def admit(self, now: float, age: float = 0.0, timeout: float = float("inf")) -> Permit | Refusal:
        """
        Args:
            age: seconds for which the request has waited, as far as it is known.
            timeout: seconds that its caller gave; only looked at when it has waited.
        """
        turn, limiter = self._turn, self._limiter
        run = turn.run(now)
        if limiter.in_flight >= FEW and (run > RUN or age + run + turn.promised > AHEAD):
            return self._late[int(self._random() * len(RETRY_AFTER))]
        if age and age + turn.promised + limiter.lag + USEFUL > timeout:
            return self._old[int(self._random() * len(RETRY_AFTER))]
        permit = limiter.admit(now)
        if not isinstance(permit, Refusal):
            turn.promised += START
        return permit


ORIGIN = b"\r\norigin:"
_TIMEOUT = re.compile(r"(?:^|&)timeout=([0-9]{1,9})(?:&|$)")
MARK = "mark"
"""Stands in an answer for what differs from one to the next."""


class Refuser:
    """
    Makes the bytes of a refusal: what `server.errors.respond` and the `Decorator` make, prepared.

    Args:
        origins: whose pages may be told apart, as in ``CORS_ORIGINS``.
    """

    def __init__(self, decorator: Decorator, origins: Iterable[str]) -> None:
        known = [origin for origin in origins if origin != "*"]
        self._tells_origins = bool(known)
        self._templates = {
            (seconds, origin): _template(seconds, origin, decorator)
            for seconds in RETRY_AFTER
            for origin in ("", *known)
        }

    def __call__(self, head: Head, refusal: Refusal) -> bytes:
        """The answer to the request *head*."""
        own, path = Exchange(head.field(REQUEST_ID), 0.0).id.encode(), head.path.encode()
        origin = (head.field(ORIGIN) or "") if self._tells_origins else ""
        seconds = int(refusal.retry_after)
        template, length = self._templates.get((seconds, origin)) or self._templates[seconds, ""]
        return template % (length + len(path) + len(own), date(int(time.time())), own, path, own)


def _template(seconds: int, origin: str, decorator: Decorator) -> tuple[bytes, int]:
    """An answer with gaps (length, date, id; path, id), and the length of its body with the gaps empty."""
    response = respond(overloaded(seconds), MARK, MARK)
    decorator(response, MARK, origin or None)
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101 - respond() makes it so
    quoted, mark = f'"{MARK}"'.encode(), MARK.encode()
    assert body.count(quoted) == 2  # noqa: S101 - the path and, after it, the id
    del response.headers["X-Request-Id"]
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {text}" for name, text in response.headers.items()]
    fixed = "\r\n".join(lines).encode().replace(b"%", b"%%")
    gaps = b"\r\nContent-Length: %d\r\nDate: %b\r\nX-Request-Id: %b\r\n\r\n"
    return fixed + gaps + body.replace(b"%", b"%%").replace(quoted, b'"%b"'), len(body) - 2 * len(mark)


def overloaded(seconds: float) -> Problem:
    """The refusal as a problem, for a request that has got further than the bytes."""
    return Problem(503, CODE, DETAIL, headers={"Retry-After": str(int(seconds))})


class Shedding:
    """
    What one application sheds, and how.

    Args:
        paths: which may be shed, as the router writes them; what is after a ``{`` may be anything.
        default_timeout: seconds, of a request that names no ``timeout``.
        count: told the reason of each refusal that is sent.
    """

    def __init__(
        self,
        gate: Gate,
        limiter: InFlightLimiter,
        refuser: Refuser,
        paths: Iterable[str],
        default_timeout: float,
        count: Callable[[str], None],
    ) -> None:
        paths = tuple(paths)
        self._gate = gate
        self._default_timeout = default_timeout
        self._exact = frozenset(path for path in paths if "{" not in path)
        prefixes = (path.partition("{")[0] for path in paths if "{" in path)
        self._prefixes = tuple(prefix for prefix in prefixes if prefix != "/")
        self.limiter = limiter
        self.answer = refuser
        self.count = count

    def admit(self, query: str, now: float, age: float) -> Permit | Refusal:
        """Whether a request with this *query*, which waited *age* seconds, is taken."""
        if not age:
            return self._gate.admit(now)
        found = _TIMEOUT.search(query)
        return self._gate.admit(now, age, int(found[1]) / 1000 if found else self._default_timeout)

    def covers(self, path: str) -> bool:
        """Whether a request for *path* may be shed."""
        return path in self._exact or path.startswith(self._prefixes)
