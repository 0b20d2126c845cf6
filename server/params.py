"""Numbers in queries, and the ``timeout`` that callers give: one schema validates it and documents it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from marshmallow import Schema, ValidationError
from marshmallow import fields as f
from marshmallow.validate import Range
from multidict import MultiDict

from server.bodies import valid_query

LONGEST_REMEMBERED = 64
"""Characters of a query string that is worth remembering; the memory stays below a megabyte."""
_DIGITS = re.compile(r"[0-9]{1,9}")


class Whole(f.Integer):
    """A query parameter from *least* to *most*, in ASCII digits; *what* it is called where it is wrong."""

    def __init__(self, least: int, most: int, what: str = "whole number", **kwargs: Any) -> None:
        self._wrong = f"Must be a {what} from {least} to {most}."
        super().__init__(validate=Range(least, most, error=self._wrong), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not _DIGITS.fullmatch(value):
            raise ValidationError(self._wrong)
        return int(value)


def timeout_schema(maximum: float) -> type[Schema]:
    """The query of a route with a deadline; *maximum* in seconds."""
    longest = round(maximum * 1000)
    description = f"Milliseconds within which the answer is complete at the caller; {longest} without it."
    told = {"description": description, "example": 1000}
    timeout = Whole(1, longest, "whole number of milliseconds", metadata=told)
    return Schema.from_dict({"timeout": timeout}, name="TimeoutQuery")


def timeout_reader(maximum: float) -> Callable[[str], float]:
    """
    A function from a raw query string to the timeout in seconds; parameters it does not know are ignored.

    It raises `server.errors.Problem` (400) for anything but a whole number from 1 to the maximum. What a
    query string means never changes, so it is remembered: validation takes 13 µs, a memory 0.2 µs.
    """
    schema = timeout_schema(maximum)

    def parse(raw: str) -> float:
        query = MultiDict(parse_qsl(raw, keep_blank_values=True))
        milliseconds: int | None = valid_query(schema, query).get("timeout")
        return maximum if milliseconds is None else milliseconds / 1000

    remembered = lru_cache(maxsize=4096)(parse)
    return lambda raw: remembered(raw) if len(raw) <= LONGEST_REMEMBERED else parse(raw)
