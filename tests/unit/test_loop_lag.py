"""The loop's lateness."""

from __future__ import annotations

import asyncio

import pytest

from server.loop_lag import PERIOD, LoopLag
from strategies.testing import run_virtual


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
