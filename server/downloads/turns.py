"""Which looks at jobs are under way in this process, so that it can end them all: to be handed over.

It knows neither the queue nor what a look does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """The work that is under way in one process, so that it can be told to hand over."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self._over = False

    @contextmanager
    def scope(self, scope: asyncio.Timeout) -> Iterator[None]:
        """While the block runs, *scope* ends when `hand_over` is called; at once, if it was."""
        self._scopes.add(scope)
        if self._over:
            _end(scope)
        try:
            yield
        finally:
            self._scopes.discard(scope)

    def begin(self) -> None:
        """What comes from now on may go on."""
        self._over = False

    def hand_over(self) -> None:
        """End what is under way, or still on its way here; each finds its `asyncio.Timeout` expired."""
        self._over = True
        for scope in self._scopes:
            _end(scope)


def _end(scope: asyncio.Timeout) -> None:
    scope.reschedule(asyncio.get_running_loop().time())
