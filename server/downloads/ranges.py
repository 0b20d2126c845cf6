"""Which bytes of an object a request asks for: RFC 9110 section 14, for one range.

A plain function of two headers. What is not understood (other units, several ranges, nonsense) is ignored,
as the standard allows: the whole object is always a right answer.
"""

from __future__ import annotations

import re
from email.utils import formatdate

from server.downloads.objects import ObjectInfo
from strategies import value

_RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))")


@value
class Span:
    """Bytes from *first*, *count* of them; *partial* if the request asked for a part."""

    first: int
    count: int
    partial: bool

    def content_range(self, size: int) -> str:
        """How the answer tells which part of *size* bytes it has."""
        return f"bytes {self.first}-{self.first + self.count - 1}/{size}"


def span(info: ObjectInfo, wanted: str | None, if_range: str | None) -> Span | None:
    """
    What to send of the object; None if nothing of what is asked for exists (416).

    Args:
        wanted: the ``Range`` header.
        if_range: the ``If-Range`` header: the part is good only for who has the rest of this very content.
    """
    whole = Span(0, info.size, False)
    if wanted is None or (if_range is not None and if_range not in validators(info)):
        return whole
    found = _RANGE.fullmatch(wanted.strip())
    if found is None:
        return whole
    first, last = _bounds(found, info.size)
    if found[2] and int(found[2]) < first:
        return whole  # backwards is no range
    return Span(first, last - first + 1, True) if first <= last else None


def _bounds(found: re.Match[str], size: int) -> tuple[int, int]:
    """The first and the last byte; the last is before the first if there is none."""
    if found[3]:
        return max(0, size - int(found[3])), size - 1
    return int(found[1]), min(int(found[2] or size), size - 1)


def validators(info: ObjectInfo) -> tuple[str, str]:
    """The ``ETag`` and the ``Last-Modified`` of the object; each stands for this very content."""
    return f'"{info.etag}"', formatdate(int(info.modified), usegmt=True)
