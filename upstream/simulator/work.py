"""The ``work`` upstream: slow, and not reliable.

What it will do next is drawn here, without a clock; doing it is the app's.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from enum import Enum

from strategies import value
from upstream.simulator.latency import Latency, parse_latency


class Mood(Enum):
    """What the upstream does with one request."""

    ANSWER = "answer"
    FAIL = "fail"
    """A 500."""
    GARBLE = "garble"
    """A 200 with something that is no valid payload."""
    HANG = "hang"
    """Nothing at all."""


GARBAGE = (b"", b"<html>oops</html>", b'{"time": "soon"}', b'{"time": true}', b"[]", b'{"time": 1', b"NaN")


@value
class WorkModel:
    """
    Attributes:
        latency: how long an answer takes, of whatever kind.
        failure, invalid, hang: the share of requests (0 to 1) that end in a 500, in a 200 without a valid
            payload, and in silence. Where they make more than 1 together, silence goes before failure, and
            failure before an invalid payload.
    """

    latency: Latency
    failure: float = 0.0
    invalid: float = 0.0
    hang: float = 0.0

    def __post_init__(self) -> None:
        for name in ("failure", "invalid", "hang"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")

    def draw(self, rng: random.Random) -> tuple[float, Mood]:
        """What the next request meets: seconds, and what comes after them."""
        seconds, luck = self.latency(rng), rng.random()
        for share, mood in ((self.hang, Mood.HANG), (self.failure, Mood.FAIL), (self.invalid, Mood.GARBLE)):
            if luck < share:
                return seconds, mood
            luck -= share
        return seconds, Mood.ANSWER


def override(model: WorkModel, query: Mapping[str, str]) -> WorkModel:
    """
    *model* with what the query of one request asks for instead: ``latency``, ``failure``, ``invalid``,
    ``hang``.

    Raises:
        ValueError: a value is malformed or out of range; the message names it.
    """

    def share(name: str, default: float) -> float:
        try:
            return float(query.get(name, default))
        except ValueError:
            raise ValueError(f"{name} must be a number from 0 to 1, not {query[name][:40]!r}") from None

    latency = parse_latency(query["latency"]) if "latency" in query else model.latency
    return WorkModel(
        latency,
        share("failure", model.failure),
        share("invalid", model.invalid),
        share("hang", model.hang),
    )
