"""Which trace the code that runs belongs to, for rooms that have no business with OpenTelemetry.

It is loaded whether traces are collected or not, so it imports nothing of them; `server.tracing` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Protocol


class Scope(Protocol):
    """A span that is under way."""

    @property
    def traceparent(self) -> str:
        """What tells others to go on with its trace (W3C Trace Context), as a header has it."""


CURRENT: ContextVar[Scope | None] = ContextVar("hedgerow_trace", default=None)


def current_traceparent() -> str:
    """Of the span that we are in; empty if we are in none."""
    scope = CURRENT.get()
    return "" if scope is None else scope.traceparent


class Task(StrEnum):
    """Work that is nobody's request, by the name of its span."""

    JOB = "work on job"
    FILE = "work on file"
    WEBHOOK = "send webhook"


class Note(Protocol):
    """Takes down what became of the work."""

    def __call__(self, outcome: str, *, failed: bool = False) -> None:
        """*outcome* in a word; whether it *failed*."""


class Spans(Protocol):
    """Gives work a span."""

    def __call__(self, task: Task, parent: str = "", **facts: int) -> AbstractContextManager[Note]:
        """
        A span around the block. An exception that ends it without a note is its failure.

        Args:
            parent: the ``traceparent`` whose trace is gone on with; empty: of the span that we are in.
            facts: numbers that are told of it.
        """


@contextmanager
def no_span(task: Task, parent: str = "", **facts: int) -> Iterator[Note]:
    """`Spans` while no traces are collected."""
    yield _nothing


def _nothing(outcome: str, *, failed: bool = False) -> None:
    pass
