"""What is kept back of a timeout, alone and in a burst."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.reserve import ROOM, SLOT, Appointments


@given(st.floats(0, 1e6), st.floats(0.001, 600), st.floats(0, 10), st.integers(1, 50))
def test_never_more_than_a_tenth_and_a_slot_is_kept_back(
    now: float, timeout: float, lag: float, callers: int
) -> None:
    """However late the loop is and however many ask at once; and never a time after the end."""
    appointments = Appointments(lambda: lag)
    due = now + timeout
    for _ in range(callers):
        at, _ = appointments.take(due, timeout)
        assert due - timeout * 0.1 - SLOT - 1e-6 <= at < due


def test_a_caller_alone_loses_three_milliseconds() -> None:
    """And one and a half times the lag of a busy loop."""
    assert Appointments(lambda: 0.0).take(10.5, 0.5)[0] == pytest.approx(10.497)
    assert Appointments(lambda: 0.010).take(10.5, 0.5)[0] == pytest.approx(10.482)


def test_a_burst_is_spread_ahead_of_its_common_end() -> None:
    """No more answers fall due in a slot than can be written in it."""
    appointments = Appointments(lambda: 0.0)
    times = [appointments.take(10.5, 0.5)[0] for _ in range(100)]
    slots = [int(at / SLOT - 1e-6) for at in times]
    assert max(slots.count(slot) for slot in set(slots)) <= ROOM
    assert min(times) > 10.5 - 0.003 - SLOT * 6


def test_what_is_answered_makes_room() -> None:
    """Nothing is kept of requests that are over."""
    appointments = Appointments(lambda: 0.0)
    first, slot = appointments.take(10.5, 0.5)
    for _ in range(1000):
        appointments.give_back(slot)
        again, slot = appointments.take(10.5, 0.5)
        assert again == first
    appointments.give_back(slot)
    assert appointments.pending == 0
