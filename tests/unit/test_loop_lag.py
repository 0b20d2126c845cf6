"""The loop's lateness, and what is kept back because of it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.loop_lag import PERIOD, LoopLag, reserve_for
from strategies.testing import run_virtual


@given(st.floats(0.001, 600), st.floats(0, 10))
def test_the_reserve_is_never_more_than_a_tenth(timeout: float, lag: float) -> None:
    """A short timeout is not eaten by its reserve, and none is negative."""
    assert 0 < reserve_for(timeout, lag) <= timeout * 0.1


def test_a_quiet_loop_keeps_three_milliseconds() -> None:
    """Enough for the answer to reach the caller."""
    assert reserve_for(0.5, 0.0) == 0.003
    assert reserve_for(0.5, 0.010) == pytest.approx(0.018)


def test_a_stall_is_measured_and_forgotten() -> None:
    """The worst lag counts at once and fades by half in about half a second."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        behind = 0.0
        seen: list[float] = []
        lag = LoopLag(seen.append, lambda: loop.time() + behind)
        lag.start()
        behind = 0.1  # the clock runs ahead of the timers: they are late
        await asyncio.sleep(PERIOD * 1.5)
        assert lag.recent == pytest.approx(0.1)
        behind = 0.0
        await asyncio.sleep(0.6)
        assert 0.02 < lag.recent < 0.06
        lag.stop()
        before = len(seen)
        await asyncio.sleep(1)
        assert len(seen) == before

    run_virtual(story())
