"""Clean-up that has to end, though whoever began it may be cancelled meanwhile.

It owns the tasks until they are done, and does not know what they clean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class Tidying:
    """The clean-up under way. `aclose` it before what the tasks need is closed."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Begin *work*, which goes on when the caller does not."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def finish(self, work: Coroutine[None, None, T]) -> T:
        """Begin *work* and wait for it. Cancelling the wait does not cancel the work."""
        return await asyncio.shield(self.start(work))

    async def aclose(self, within: float) -> None:
        """Wait for what is under way, *within* seconds at most; cancel what is left then."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=within)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
