"""What a transport is asked to send, and what it brings back. Plain values: nothing here holds a socket."""

from __future__ import annotations

from collections.abc import Mapping

from strategies import value

DEFAULT_OPERATION = "default"
"""What an upstream with one kind of call calls it."""
MAX_INTERIM = 100
"""Interim answers (1xx) that a call takes before its answer. More than one a second has no good reason."""


@value
class Call:
    """
    One HTTP request to an upstream, relative to its URL.

    *operation* names what is asked for, for breakers and metrics: one of those that its upstream declares.
    *segments* are appended to the URL's path, each percent-encoded, so that no caller's text can climb out
    of it. *body* is sent as JSON. *headers* are sent besides those of every call, and *traceparent*, if there
    is one, besides them.
    """

    method: str = "GET"
    segments: tuple[str, ...] = ()
    body: bytes | None = None
    operation: str = DEFAULT_OPERATION
    headers: tuple[tuple[str, str], ...] = ()
    traceparent: str = ""


GET = Call()
"""What is sent for an attempt that does not say."""


@value
class Answer:
    """One HTTP answer, read to its end: *body* is bounded by the upstream's ``max_body``, decoded."""

    status: int
    headers: Mapping[str, str]
    body: bytes
