"""A layer that bounds an attempt by the upstream's own limit. The deadline is the fan-out's affair."""

from __future__ import annotations

import asyncio

from strategies import Attempt, Bound, Fetch, Outcome, TimedOut


def bound(fetch: Fetch, seconds: float) -> Fetch:
    """*fetch*, but after *seconds* the attempt has timed out by the upstream's own limit."""

    async def bounded(attempt: Attempt) -> Outcome:
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            # Waits for the cancelled call to clean up; that is inside the attempt, and nobody's answer waits.
            async with asyncio.timeout_at(started + seconds):
                return await fetch(attempt)
        except TimeoutError:
            return TimedOut(attempt, started, loop.time(), Bound.TARGET)

    return bounded
