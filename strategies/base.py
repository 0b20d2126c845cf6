"""The two contracts of this package: what a strategy is, and what it is given to ask an upstream with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar, Generic, TypeAlias, TypeVar

from strategies.deadline import Deadline
from strategies.outcome import Attempt, Outcome, Request, Result
from strategies.reaper import Reaper
from strategies.value import value

Fetch: TypeAlias = Callable[[Attempt], Awaitable[Outcome]]
"""
One call to one target. It never raises for an upstream's fault: that is an outcome. What it raises is a bug
or a cancellation. It may return a coroutine, or a future that is already under way.
"""


@value
class NoOptions:
    """For strategies that have nothing to set."""


O = TypeVar("O")  # noqa: E741 - the options of a strategy


class Strategy(ABC, Generic[O]):
    """
    How many attempts, at which targets, when, and which outcome wins.

    A strategy is made once, when the application starts, and serves all requests of its route: it composes
    the shared session (inside *fetch*), the reaper, and its *options*; the deadline comes with each request.
    What it keeps between requests must take ``now`` and know no loop.
    """

    Options: ClassVar[type] = NoOptions
    """The dataclass of this strategy's options; it checks its own ranges and raises `ValueError`."""

    def __init__(self, fetch: Fetch, reaper: Reaper, options: O) -> None:
        self.fetch = fetch
        self.reaper = reaper
        self.options = options

    @abstractmethod
    async def execute(self, request: Request, deadline: Deadline) -> Result:
        """
        Ask the request's targets and return by *deadline*.

        Never raises for an upstream's fault, never waits for a loser's clean-up, and lets a cancellation
        from outside through. `strategies.testing.check_strategy` holds an implementation to that.
        """
