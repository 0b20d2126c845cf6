"""Where finished files are kept, as the rest of the program sees it: put, find, link, forget.

It knows neither S3 nor folders, and no jobs: which files there should be is none of its business. Keys are
made here, from our own ids, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable
from typing import NewType, Protocol
from urllib.parse import quote

from strategies import value

Key = NewType("Key", str)
"""Where an object lives in its store. Only `object_key` makes one."""

SMALLEST_ID, LARGEST_ID = 10_000, 100_000_000
PREFIX = "downloads/"
CONTENT_TYPE = "application/zip"
LONGEST_LINK = 7 * 24 * 3600.0
"""Seconds; S3 signs for no longer."""


def object_key(file_id: int) -> Key:
    """
    The key of a file.

    Raises:
        ValueError: *file_id* is not one of ours.
    """
    if type(file_id) is not int or not SMALLEST_ID <= file_id <= LARGEST_ID:
        raise ValueError(f"no file has the id {file_id!r:.40}")
    return Key(f"{PREFIX}{file_id}.zip")


@value
class ObjectInfo:
    """
    What is known of an object without reading it.

    Attributes:
        size: in bytes.
        etag: changes when the content does; without quotes.
        modified: when it was put, in seconds since 1970.
    """

    size: int
    etag: str
    modified: float


class StoreError(Exception):
    """The store did not do it. *detail* is one sentence for callers; the cause, if any, is for the log."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class StoreUnavailable(StoreError):
    """It is away, slow, broken, or refuses us. Later it may be well again."""


class StoreFull(StoreError):
    """There is no room for more. What is there can still be read."""


class ObjectStore(Protocol):
    """
    A place for objects. Its opener (`open_local_objects`, `open_s3_objects`) also closes it.

    Every call ends within a few seconds, and raises `StoreUnavailable` or `StoreFull` when it could not do
    what it says. A `put` takes as long as its chunks take; each step of the store itself is bounded.
    """

    async def prepare(self) -> None:
        """Make the bucket or folder if it is missing. Each `put` sees to it too, if this has failed."""

    async def put(self, key: Key, chunks: AsyncIterable[bytes]) -> int:
        """
        Store *chunks* as one object; returns its size in bytes.

        All or nothing: whoever looks sees the former object, or none, until the new one is whole. When the
        store or the chunks fail, or the caller is cancelled, what was sent so far is taken away again before
        this ends; only a second cancellation does not wait for that. Errors of *chunks* pass through, and
        closing them is the caller's.
        """

    async def head(self, key: Key) -> ObjectInfo | None:
        """What is known of the object; None if there is none."""

    async def url(self, key: Key, expires_in: float, filename: str) -> str:
        """
        An address at which the client can GET the object for *expires_in* seconds, saved as *filename*.

        It is a secret: whoever has it may read, so it is made on demand and never logged. Nobody asks
        whether the object is there. Whole seconds are kept, at least one.

        Raises:
            ValueError: *expires_in* is below a second or above `LONGEST_LINK`.
        """

    async def delete(self, key: Key) -> None:
        """Take the object away, if it is there."""

    async def check(self) -> None:
        """For the health check: ends well if objects can be read and put. `StoreFull`: only read."""

    async def sweep(self, older_than: float) -> int:
        """
        Take away uploads that were begun, or last written to, more than *older_than* seconds ago and never
        ended; returns how many. It has to be longer than the longest upload takes.
        """


def link_seconds(expires_in: float) -> int:
    """*expires_in* in whole seconds, never longer; raises ValueError as `ObjectStore.url` says."""
    if not 1 <= expires_in <= LONGEST_LINK:
        raise ValueError(f"a link lives for 1 to {LONGEST_LINK:.0f} seconds, not {expires_in}")
    return int(expires_in)


_PLAIN = re.compile(r"[^A-Za-z0-9 ._()-]")


def disposition(filename: str) -> str:
    """The ``Content-Disposition`` that saves a body as *filename*, whatever is in that (RFC 6266)."""
    plain = _PLAIN.sub("_", filename)
    told = f'attachment; filename="{plain}"'
    if plain == filename:
        return told
    return f"{told}; filename*=UTF-8''{quote(filename, safe='', errors='replace')}"
