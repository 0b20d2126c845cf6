"""The two kinds of stores behind one form, so that one suite can tell what holds for both."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import botocore.auth
import pytest
from types_aiobotocore_s3.client import S3Client

from server.downloads.local_objects import LocalObjects
from server.downloads.objects import Key, ObjectStore, object_key
from server.downloads.s3_objects import S3Objects

_IDS = count(20_000)


def new_key() -> Key:
    """A key that no other test of this run has."""
    return object_key(next(_IDS))


async def chunked(*chunks: bytes) -> AsyncIterator[bytes]:
    """Those chunks, one by one."""
    for chunk in chunks:
        yield chunk


@dataclass
class Clock:
    """The time of day, until a test changes it."""

    now: float

    def __call__(self) -> float:
        return self.now


@dataclass
class Fetched:
    """An answer, read to its end."""

    status: int
    headers: Any
    body: bytes = field(repr=False)

    @property
    def digest(self) -> str:
        """Short enough for a failed test."""
        return hashlib.sha256(self.body).hexdigest()


async def fetch(url: str, method: str = "GET", **headers: str) -> Fetched:
    """What a plain client of the outside gets; ``_`` in the names of headers stands for ``-``."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.request(method, url, headers=named) as response,
    ):
        return Fetched(response.status, response.headers, await response.read())


class Place(Protocol):
    """A store, and what a test may ask of it that the program may not."""

    @property
    def store(self) -> ObjectStore:
        """The store."""

    @property
    def clock(self) -> Clock:
        """The store's."""

    expired: int
    """The status of a link that has expired."""

    async def uploads(self, key: Key) -> int:
        """How many uploads to *key* have been begun and not ended."""

    async def orphan(self, key: Key) -> None:
        """Leave an upload as a process does that is killed."""

    async def spoil(self) -> None:
        """Take away what `prepare` makes."""

    def later(self, seconds: float) -> None:
        """Let the store's clock go on."""

    def ago(self, seconds: float) -> AbstractContextManager[None]:
        """Inside it, links are made as of so many seconds ago."""


@dataclass
class LocalPlace:
    """A folder, and the server that serves it."""

    store: LocalObjects
    folder: Path
    clock: Clock
    expired: int = 410

    async def uploads(self, key: Key) -> int:
        return len(self.parts())

    def parts(self) -> list[Path]:
        """The files that are being written."""
        return list((self.folder / ".incoming").glob("*"))

    async def orphan(self, key: Key) -> None:
        (self.folder / ".incoming" / "left.part").write_bytes(b"half")

    async def spoil(self) -> None:
        self.folder.rename(self.folder.with_name("gone"))

    def later(self, seconds: float) -> None:
        self.clock.now += seconds

    @contextmanager
    def ago(self, seconds: float) -> Iterator[None]:
        self.clock.now -= seconds
        yield
        self.clock.now += seconds


@dataclass
class S3Place:
    """A bucket in a real server."""

    store: S3Objects
    client: S3Client
    bucket: str
    clock: Clock
    expired: int = 403

    async def uploads(self, key: Key) -> int:
        found = await self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=key)
        return len(found.get("Uploads", []))

    async def orphan(self, key: Key) -> None:
        begun = await self.client.create_multipart_upload(Bucket=self.bucket, Key=key)
        await self.client.upload_part(
            Bucket=self.bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"half"
        )

    async def spoil(self) -> None:
        self.store._bucket = "no-such-bucket"

    def later(self, seconds: float) -> None:
        self.clock.now += seconds

    @contextmanager
    def ago(self, seconds: float) -> Iterator[None]:
        def then() -> datetime:
            return datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=seconds)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(botocore.auth, "get_current_datetime", then)
            yield
