"""What counts as a valid payload, by name. A rule looks at the bytes once and says what is wrong, or None.

The bytes are parsed to be judged and then passed on as they came. orjson is the judge because it is strict
where the standard library is not: NaN, Infinity, 1e999, a byte order mark, bytes that are not UTF-8 and deep
nesting are all refused, and none of them can exhaust the stack.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

import orjson

from strategies import find_named

Accept: TypeAlias = Callable[[bytes], str | None]


def anything(body: bytes) -> str | None:
    """Every body will do."""
    return None


def json_document(body: bytes) -> str | None:
    """Any JSON document."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return "the body is not JSON"
    return None


def json_or_nothing(body: bytes) -> str | None:
    """Any JSON document, or an empty body, with which the event service says that there is no such thing."""
    return json_document(body) if body else None


def work(body: bytes) -> str | None:
    """A JSON object whose ``time`` is a number (a boolean is none)."""
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError:
        return "the body is not JSON"
    if not isinstance(payload, dict):
        return "the body is not a JSON object"
    if type(payload.get("time")) not in (int, float):
        return "the body has no number under 'time'"
    return None


BUILT_IN: Mapping[str, Accept] = {
    "any": anything,
    "json": json_document,
    "json-or-nothing": json_or_nothing,
    "work": work,
}


def find_accept(name: str) -> Accept:
    """
    The rule behind *name*: a built-in one, or ``"module:function"``.

    Raises:
        LookupError: there is none; the message says what there is.
    """
    return cast(Accept, find_named("payload rule", name, BUILT_IN))
