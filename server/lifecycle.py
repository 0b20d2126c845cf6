"""Which stage of its life the server is in. One small value that readiness, the edge and the end share."""

from __future__ import annotations

from collections.abc import Callable


class Lifecycle:
    """
    Attributes:
        started: everything that requests need is there.
        draining: SIGTERM has come; requests are still answered, and connections closed after each.
    """

    __slots__ = ("_draining", "_told", "started")

    def __init__(self) -> None:
        self.started = False
        self._draining = False
        self._told: list[Callable[[], None]] = []

    @property
    def draining(self) -> bool:
        return self._draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        begins = draining and not self._draining
        self._draining = draining
        if begins:
            for tell in self._told:
                tell()

    def on_drain(self, tell: Callable[[], None]) -> None:
        """Call *tell* when draining begins."""
        self._told.append(tell)

    @property
    def ready(self) -> bool:
        """Whether new callers are welcome."""
        return self.started and not self.draining
