"""From a result to the bytes of a body. An upstream's bytes are passed on as they came, never re-encoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from strategies import Answered, Result, find_named, value
from upstream.call import Answer


@value
class Render:
    """
    A way to render a met result.

    Attributes:
        body: the JSON bytes, from the result and the seconds that it took us.
        shape: the body's JSON schema, for the OpenAPI document.
        example: what a caller sees.
    """

    body: Callable[[Result, float], bytes]
    shape: Mapping[str, object]
    example: object


_PAYLOAD: Mapping[str, object] = {
    "type": "object",
    "description": "An upstream's payload, as it came.",
    "properties": {"time": {"type": "number", "description": "Milliseconds the upstream took."}},
    "required": ["time"],
}


def _bytes(answer: Answered) -> bytes:
    return cast(Answer, answer.value).body


def _winner(result: Result, seconds: float) -> bytes:
    return _bytes(result.answers[0])


def _list(result: Result, seconds: float) -> bytes:
    return b"[%b]" % b", ".join(map(_bytes, result.answers))


def _timed(result: Result, seconds: float) -> bytes:
    return b'{"time": %d, "api": %b}' % (round(seconds * 1000), _bytes(result.answers[0]))


BUILT_IN: Mapping[str, Render] = {
    "winner": Render(_winner, _PAYLOAD, {"time": 200}),
    "list": Render(_list, {"type": "array", "items": _PAYLOAD}, [{"time": 200}, {"time": 300}]),
    "timed": Render(
        _timed,
        {
            "type": "object",
            "properties": {
                "time": {"type": "integer", "description": "Milliseconds this server took."},
                "api": _PAYLOAD,
            },
            "required": ["time", "api"],
        },
        {"time": 421, "api": {"time": 120}},
    ),
}


def find_render(name: str) -> Render:
    """
    The `Render` behind *name*: a built-in, or ``"module:attribute"``.

    Raises:
        LookupError: there is none.
    """
    return cast(Render, find_named("render", name, BUILT_IN))
