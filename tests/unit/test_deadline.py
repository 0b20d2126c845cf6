"""A deadline is an ordered instant."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from strategies import Deadline

instants = st.floats(min_value=0, max_value=1e9)
durations = st.floats(min_value=0, max_value=1e6)


@given(instants, durations, durations)
def test_the_earlier_of_two_is_their_minimum(now: float, one: float, other: float) -> None:
    """Combining is ``min``, in either order."""
    a, b = Deadline.after(one, now=now), Deadline.after(other, now=now)
    assert min(a, b) == min(b, a) == Deadline(min(a.at, b.at))


@given(instants, durations)
def test_nothing_remains_after_it_has_expired(now: float, seconds: float) -> None:
    """``remaining`` and ``expired`` agree, and remaining is never negative."""
    deadline = Deadline.after(seconds, now=0.0)
    assert deadline.remaining(now) >= 0
    assert deadline.expired(now) == (deadline.remaining(now) == 0)


@given(instants, durations)
def test_a_reserve_makes_it_earlier(at: float, seconds: float) -> None:
    """What is reserved is missing from the end."""
    assert Deadline(at).reserve(seconds) <= Deadline(at)


@given(instants)
def test_never_is_later_than_all(at: float) -> None:
    """No instant is later than never."""
    assert Deadline(at) < Deadline.never()
