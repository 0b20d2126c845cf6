"""What callers hand back to go on from where they were: ids of jobs and events, and places in a list.

They come from strangers, so they are read strictly. It knows nothing of what they point at.
"""

from __future__ import annotations

import base64
import re
from contextlib import suppress

from strategies import value

NOTHING = "0-0"
"""Stands before the first event."""
LONGEST = 200
"""Characters that a cursor may have; ours have about 75."""

_JOB = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EVENT = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_SCORE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,20})?(e\+[0-9]{1,2})?")


def job_id(text: str) -> str:
    """*text*, if it is a UUID as we write them, in lower case. Raises ValueError."""
    if not _JOB.fullmatch(text):
        raise ValueError("not the id of a job")
    return text


def event_id(text: str) -> str:
    """The id of an event, without leading zeros. Raises ValueError if *text* is none."""
    found = _EVENT.fullmatch(text)
    parts = [int(part) for part in found.groups()] if found else [2**64]
    if max(parts) >= 2**64:
        raise ValueError("not the id of an event")
    return "{}-{}".format(*parts)


@value
class Place:
    """An entry of a sorted index: what it is sorted by, as the store writes it, and the id of the job."""

    score: str
    job_id: str


def write_cursor(place: Place) -> str:
    """*place* as callers see it; they have to take it as it is."""
    return base64.urlsafe_b64encode(f"{place.score} {place.job_id}".encode()).decode().rstrip("=")


def read_cursor(text: str) -> Place:
    """The place that `write_cursor` wrote. Raises ValueError for anything else."""
    place = None
    if len(text) <= LONGEST:
        with suppress(ValueError):
            plain = base64.b64decode(text + "=" * (-len(text) % 4), "-_", validate=True).decode("ascii")
            score, _, job = plain.partition(" ")
            place = Place(score, job_id(job))
    if place is None or not _SCORE.fullmatch(place.score) or write_cursor(place) != text:
        raise ValueError("not a cursor")
    return place
