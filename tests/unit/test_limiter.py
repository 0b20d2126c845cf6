"""The limit on what is under way: when it shrinks, when it grows, and what it says."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.limiter import InFlightLimiter, LimiterOptions
from strategies import Verdict
from upstream.admission import Permit, Refusal


def limiter(in_flight: int = 0, **options: float) -> InFlightLimiter:
    """One with *in_flight* requests under way."""
    made = InFlightLimiter(random.Random(1), LimiterOptions(**options))
    for _ in range(in_flight):
        made.admit(0.0)
    return made


def test_it_starts_high() -> None:
    """A thousand requests at once are no overload by themselves."""
    made = limiter(in_flight=1000)
    assert made.in_flight == 1000
    assert isinstance(made.admit(0.0), Refusal)


def test_what_is_answered_makes_room() -> None:
    """A permit that is settled is somebody else's."""
    made = limiter(start=1)
    permit = made.admit(0.0)
    assert not isinstance(permit, Refusal)
    assert isinstance(made.admit(0.0), Refusal)
    permit.settle(Verdict.SUCCESS, 0.0)
    assert not isinstance(made.admit(0.0), Refusal)


def test_a_late_loop_shrinks_the_limit_from_what_is_under_way() -> None:
    """Not from the limit, which nobody may have used; and each stall counts once."""
    made = limiter(in_flight=100)
    made.sample(0.020)
    assert made.limit == pytest.approx(85)
    made.sample(0.007)
    assert made.limit == pytest.approx(85)


def test_it_grows_while_the_loop_is_punctual_and_the_limit_is_needed() -> None:
    """By a tenth and one, when 70 % of it is in use."""
    made = limiter(in_flight=7, start=10)
    made.sample(0.0)
    assert made.limit == pytest.approx(12)
    made.sample(0.0)
    assert made.limit == pytest.approx(12)


def test_a_middling_lag_changes_nothing() -> None:
    """Between 6 and 10 ms the limit is right as it is."""
    made = limiter(in_flight=10, start=10)
    made.sample(0.008)
    assert made.limit == 10


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 50), st.integers(0, 50)), max_size=200))
def test_the_limit_keeps_its_range(steps: list[tuple[float, int, int]]) -> None:
    """Whatever the loop does, from 8 to 5000; and nobody is admitted over it."""
    made = limiter()
    permits: list[Permit] = []
    for lag, come, go in steps:
        for _ in range(come):
            permit = made.admit(0.0)
            assert isinstance(permit, Refusal) == (len(permits) >= made.limit)
            if not isinstance(permit, Refusal):
                permits.append(permit)
        for _ in range(min(go, len(permits))):
            permits.pop().settle(Verdict.IGNORED, 0.0)
        made.sample(lag)
        assert made.in_flight == len(permits)
        assert 8 <= made.limit <= 5000


def test_those_refused_together_are_told_different_times() -> None:
    """One to three seconds, by lot."""
    made = limiter(start=0)
    told = {
        refusal.retry_after
        for refusal in (made.admit(0.0) for _ in range(50))
        if isinstance(refusal, Refusal)
    }
    assert told == {1, 2, 3}
