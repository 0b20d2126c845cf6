"""When a message is tried again."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from server.webhooks.schedule import DELAYS, JITTER, next_attempt


class NoLuck(random.Random):
    """Always the same."""

    def __init__(self, luck: float) -> None:
        super().__init__(0)
        self._luck = luck

    def random(self) -> float:
        """Between 0 and 1."""
        return self._luck


def starts(luck: float) -> list[float]:
    """The starts of all attempts of a message that always fails at once."""
    now = 0.0
    found: list[float] = []
    while (at := next_attempt(len(found), now, NoLuck(luck))) is not None:
        now = at
        found.append(now)
    return found


def test_without_luck_it_is_the_specification_s_table() -> None:
    """Seconds since the start: 0, 0:00:05, 0:05:05, … 75:35:05."""
    hours = [2 + 35 / 60, 7 + 35 / 60, 17 + 35 / 60, 31 + 35 / 60, 51 + 35 / 60, 75 + 35 / 60]
    assert starts(0.0) == [0.0, 5.0, 305.0, 2105.0, *(round(hour * 3600 + 5) for hour in hours)]


def test_luck_makes_it_later_by_a_tenth_at_most() -> None:
    """Never earlier, and the first attempt is at once."""
    soon, late = starts(0.0), starts(1.0)
    assert late[0] == 0.0
    assert all(a < b <= a * (1 + JITTER) + 1e-6 for a, b in zip(soon[1:], late[1:], strict=True))


def test_messages_that_failed_together_do_not_come_back_together() -> None:
    """Also when the receiver named the moment."""
    rng = random.Random(1)
    assert len({next_attempt(1, 0.0, rng) for _ in range(100)}) == 100
    assert len({next_attempt(1, 0.0, rng, 60.0) for _ in range(100)}) == 100


@given(
    made=st.integers(0, 20),
    now=st.floats(0, 4e9),
    asked=st.floats(0, 86_400),
    seed=st.integers(0, 2**32),
)
def test_an_attempt_is_never_before_its_time(made: int, now: float, asked: float, seed: int) -> None:
    """Neither the schedule's nor the receiver's; and after the last there is none."""
    at = next_attempt(made, now, random.Random(seed), asked)
    if made >= len(DELAYS):
        assert at is None
    else:
        assert at is not None
        assert at >= now + max(DELAYS[made], asked)
