"""One attempt to deliver one message, and what its end means.

It does not wait, repeat or remember: when to try again is the schedule's word, doing so the job engine's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol, TypeAlias

from server.webhooks.schedule import DELAYS
from server.webhooks.signing import sign
from strategies import value
from upstream.guard import DENIED
from upstream.guarded_session import Heard, NoReply

GONE = 410
SLOW_DOWN = (429, 503)
"""The statuses whose ``Retry-After`` is heeded."""
LONGEST = float(DELAYS[-1])
"""Seconds that a receiver may ask for at most: no message waits longer than the schedule would let it."""


@value
class Message:
    """
    Attributes:
        id: the same for every attempt, and for a replay by hand; receivers know a repetition by it.
        url: where to, as the caller gave it.
        body: JSON in UTF-8; the specification advises less than 20 kB.
    """

    id: str
    url: str
    body: bytes


@value
class Delivered:
    """The receiver has it."""

    status: int


@value
class Retry:
    """
    The receiver does not have it, or did not say so. Try again by the schedule.

    Attributes:
        reason: ``http_error``, ``timeout``, or one of `upstream.faults.reason_of`.
        after: seconds that the receiver asked to be left alone, at most `LONGEST`; 0.0 if it did not.
        told: what may be shown to the owner of the job.
    """

    reason: str
    told: str
    after: float = 0.0


@value
class Disabled:
    """The receiver wants no more: 410. Send nothing to this URL again."""


@value
class Refused:
    """
    Nothing was sent: the guard said no, or the name has no address. Which of both must not show in what
    the owner sees, also not in whether it is tried again, or it would tell which names a private network
    has. So try again by the schedule: a name server that was down will be up.

    Attributes:
        why: for our log and for nobody else.
        told: what may be shown to the owner of the job; always the same.
    """

    why: str
    told: str = DENIED


Outcome: TypeAlias = Delivered | Retry | Disabled | Refused


class Poster(Protocol):
    """Who sends: a `upstream.guarded_session.GuardedSession`."""

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Heard:
        """POST *body* once; what came of it is a value."""


async def deliver(
    message: Message, secrets: Sequence[str], poster: Poster, clock: Callable[[], float]
) -> Outcome:
    """
    Try once.

    Args:
        message: what to send, and where.
        secrets: as `server.webhooks.signing.sign` takes them.
        poster: sends it.
        clock: seconds since the epoch.

    Raises:
        ValueError: as `server.webhooks.signing.sign` does.
    """
    headers = sign(secrets, message.id, clock(), message.body)
    heard = await poster.post(message.url, {"Content-Type": "application/json", **headers}, message.body)
    return judge(heard, clock())


def judge(heard: Heard, now: float) -> Outcome:
    """What an attempt came to that ended at *now* (seconds since the epoch). Only 2xx is success."""
    if isinstance(heard, NoReply):
        if heard.reason in ("denied", "dns_error"):
            return Refused(f"{heard.reason}: {heard.detail}")
        return Retry(heard.reason, _WORDS.get(heard.reason, "The receiver could not be reached."))
    if 200 <= heard.status < 300:
        return Delivered(heard.status)
    if heard.status == GONE:
        return Disabled()
    after = pause(heard.retry_after, now) if heard.status in SLOW_DOWN else 0.0
    return Retry("http_error", f"The receiver answered {heard.status}.", after)


def pause(retry_after: str, now: float) -> float:
    """The seconds that ``Retry-After`` asks for: a number or a date. 0.0 for nonsense and the past."""
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return LONGEST if len(text) > 9 else min(float(text), LONGEST)
    try:
        at = parsedate_to_datetime(text)
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), LONGEST)


_WORDS = {
    "timeout": "The receiver did not answer in time.",
    "tls_error": "The receiver's certificate was not accepted.",
    "reset": "The receiver closed the connection before it had answered.",
    "protocol_error": "The receiver did not answer in HTTP.",
}
