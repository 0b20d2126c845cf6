"""An outcome that is on its way, for transports that can say at once when it has come.

A future tells its callbacks in a later turn of the loop, each with a handle of its own: 1.5 µs apiece, two
for every attempt, and the answer is later by that turn. Whoever listens here is told on the spot. It may only
take note: it runs inside the transport's own callback.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from strategies.outcome import Outcome

Coming: TypeAlias = asyncio.Future[Outcome]
Listener: TypeAlias = Callable[[Coming], None]


class Pending(asyncio.Future[Outcome]):
    """A future that can be awaited as any other, and listened to besides."""

    listeners: tuple[Listener, ...] = ()

    def settle(self, outcome: Outcome) -> None:
        """It has come."""
        self.set_result(outcome)
        for listener in self.listeners:
            listener(self)

    def cancel(self, msg: object = None) -> bool:
        """Nobody needs it any more."""
        cancelled = super().cancel(msg)
        if cancelled:
            for listener in self.listeners:
                listener(self)
        return cancelled


def coming(awaitable: Awaitable[Outcome]) -> Coming:
    """*awaitable* as a future: itself if it is one, else a task that runs it."""
    return awaitable if isinstance(awaitable, asyncio.Future) else asyncio.ensure_future(awaitable)


def listen(outcome: Coming, listener: Listener) -> None:
    """Have *listener* told when *outcome* has come, was cancelled, or turned out to be a bug."""
    if not isinstance(outcome, Pending):
        outcome.add_done_callback(listener)
    elif outcome.done():
        listener(outcome)
    else:
        outcome.listeners += (listener,)


def unlisten(outcome: Coming, listener: Listener) -> None:
    """*listener* does not care any more."""
    if isinstance(outcome, Pending):
        outcome.listeners = tuple(one for one in outcome.listeners if one != listener)
    else:
        outcome.remove_done_callback(listener)
