"""Which stage of its life the server is in. One small value that readiness, the edge and the end share."""

from __future__ import annotations


class Lifecycle:
    """
    Attributes:
        started: everything that requests need is there.
        draining: SIGTERM has come; requests are still answered, and connections closed after each.
    """

    __slots__ = ("draining", "started")

    def __init__(self) -> None:
        self.started = False
        self.draining = False

    @property
    def ready(self) -> bool:
        """Whether new callers are welcome."""
        return self.started and not self.draining
