"""Extra attempts are bounded by the ordinary ones, in every window."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import Budget


def test_a_burst_and_then_a_tenth() -> None:
    """Ten at once, then one for each ten ordinary attempts."""
    budget = Budget(ratio=0.1, burst=10)
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
    taken = 0
    for _ in range(1000):
        budget.deposit()
        taken += budget.withdraw()
    assert taken == 100


@given(st.lists(st.booleans(), max_size=500), st.integers(0, 400), st.integers(1, 500))
def test_in_any_window_extra_attempts_stay_within_the_share_plus_the_burst(
    history: list[bool], begin: int, length: int
) -> None:
    """However ordinary (True) and extra (False) attempts alternate."""
    budget, granted = Budget(ratio=0.1, burst=10), []
    for ordinary in history:
        if ordinary:
            budget.deposit()
        granted.append(not ordinary and budget.withdraw())
    window = slice(begin, begin + length)
    assert sum(granted[window]) <= 10 + 0.1 * sum(history[window]) + 1e-6


def test_nothing_is_saved_beyond_the_burst() -> None:
    """A quiet night does not pay for a storm in the morning."""
    budget = Budget(ratio=1.0, burst=2)
    for _ in range(100):
        budget.deposit()
    assert budget.tokens == 2


@pytest.mark.parametrize(("ratio", "burst"), [(-0.1, 1), (1.1, 1), (0.1, -1)])
def test_a_share_out_of_range_is_refused(ratio: float, burst: float) -> None:
    """The message names both."""
    with pytest.raises(ValueError, match="ratio must be from 0 to 1"):
        Budget(ratio, burst)
