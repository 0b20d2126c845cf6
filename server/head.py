"""The head of a plain request, read from its bytes: a GET without a body, on a connection that stays.

What nearly every caller sends is answered, or refused, without a parser. Whoever sends anything else, or
anything odd, is `None` here and goes to aiohttp, which knows HTTP in full. So this may be narrow, but never
wider than aiohttp: what it reads, aiohttp would have read alike.
"""

from __future__ import annotations

import re

from strategies import value

LONGEST = 4096
"""Bytes of a plain head. Half of what aiohttp takes for one line; callers with more go to aiohttp."""
MOST_FIELDS = 100
"""aiohttp takes 128."""
_HEAD = re.compile(
    rb"GET (/[A-Za-z0-9/._~-]*)(?:\?([!\"$-~]*))? HTTP/1\.1"
    rb"(\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\x80-\xff]*\r\n)*)\r\n"
)
"""A path that needs no escaping anywhere, a query without a fragment, and whole header lines."""
_ODD = re.compile(
    rb"\r\n(?:content-length|transfer-encoding|expect|upgrade):|\r\nconnection:[^\r]*(?:close|upgrade)"
)
"""What a head in lower case may not have: a body, or a say in the connection."""
_HOST = b"\r\nhost:"
REQUEST_ID = b"\r\nx-request-id:"


@value
class Head:
    """The path and the query string of a plain request, and its header lines, each after a CRLF."""

    path: str
    query: str
    _fields: bytes
    _lower: bytes

    def field(self, name: bytes) -> str | None:
        """The text of the first header *name*: in lower case, with CRLF and colon, ``b"\\r\\norigin:"``."""
        start = self._lower.find(name)
        if start < 0:
            return None
        start += len(name)
        return self._fields[start : self._fields.index(b"\r\n", start)].strip(b" \t").decode("latin-1")


def read_head(data: bytes) -> Head | None:
    """The one plain request that *data* is, whole; else None."""
    found = _HEAD.fullmatch(data) if len(data) <= LONGEST else None
    if found is None:
        return None
    path, query, fields = found.groups()
    lower = fields.lower()
    if _ODD.search(lower) or lower.count(_HOST) != 1 or fields.count(b"\n") > MOST_FIELDS:
        return None
    return Head(path.decode("ascii"), query.decode("ascii") if query else "", fields, lower)
