"""Objects in a local folder: the store that needs no other server, and the one when none is configured.

It does its work in a few threads of its own, so that a disk that hangs holds up nobody else. It knows no
HTTP; `server.downloads.object_routes` serves what it has, under addresses that its signer made.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple, Unpack

from server.downloads.files import Incoming, Outgoing, info_at, remove_stale, require_room
from server.downloads.objects import PREFIX, Key, ObjectInfo, StoreError, StoreFull, StoreUnavailable
from server.downloads.parts import parts
from server.downloads.signed_urls import UrlSigner
from server.downloads.tidying import Tidying
from strategies import value

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PATH = "/objects"
"""What comes before the key in an address."""
BLOCK = 1024 * 1024
"""Bytes that are written at once. A hop to a thread takes 0.1 ms, so tiny chunks are gathered."""
RESERVE = 64 * 1024 * 1024
"""Bytes of the disk that objects leave free: the job store beside them has to be able to write."""
THREADS = 4
PATIENCE = 10.0
"""Seconds that one step may take, such as a block to be written."""
FLUSH = 6
"""How many times as long the last step may take: what the kernel held back has to reach the disk."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@value
class Reader:
    """An object that is read: what it is, and how to get up to so many bytes from so far into it."""

    info: ObjectInfo
    read: Callable[[int, int], Awaitable[bytes]]


class LocalObjects:
    """
    An `ObjectStore` in a folder. Made by `open_local_objects`.

    Args:
        folder: nobody else writes there.
        signer: makes the addresses.
        base: what the addresses begin with, such as ``https://example.com``; nothing: they are paths.
        threads: where the work is done.
        clock: the one that files are dated by, in seconds since 1970.
        reserve: bytes of the disk that are left free.
        patience: seconds that one step may take.
    """

    def __init__(
        self,
        folder: Path,
        signer: UrlSigner,
        base: str,
        threads: Executor,
        clock: Callable[[], float],
        reserve: int,
        patience: float,
    ) -> None:
        self._folder = folder
        self._incoming = folder / ".incoming"
        self._signer = signer
        self._base = base.rstrip("/")
        self._threads = threads
        self._clock = clock
        self._reserve = reserve
        self._patience = patience
        self._tidying = Tidying()

    async def prepare(self) -> None:
        """Make the folder."""
        await self._do(_make, self._folder / PREFIX, self._incoming)

    async def put(self, key: Key, chunks: AsyncIterable[bytes]) -> int:
        """Write beside the place, flush to the disk, move into place."""
        size, file = 0, Incoming(self._incoming, self._reserve)
        try:
            async with aclosing(parts(chunks, BLOCK)) as blocks:
                async for block in blocks:
                    await self._do(file.write, block)
                    size += len(block)
            await self._within(FLUSH * self._patience, file.keep, self._folder / key)
        except BaseException:
            await self._tidying.finish(self._at_last(file.discard))
            raise
        return size

    async def head(self, key: Key) -> ObjectInfo | None:
        """What is known of the object."""
        return await self._do(info_at, self._folder / key)

    async def url(self, key: Key, expires_in: float, filename: str) -> str:
        """A signed address of our own."""
        return f"{self._base}{PATH}/{key}?{self._signer.query(key, expires_in, filename)}"

    async def delete(self, key: Key) -> None:
        """Remove the file."""
        await self._do(_remove, self._folder / key)

    async def check(self) -> None:
        """Whether the folder is there, can be written to, and has room."""
        await self._do(_check, self._folder, self._reserve)

    async def sweep(self, older_than: float) -> int:
        """Remove what dead processes left half written."""
        return await self._do(remove_stale, self._incoming, self._clock() - older_than)

    @asynccontextmanager
    async def reading(self, key: Key) -> AsyncIterator[Reader | None]:
        """The object, for as long as it is read; None if there is none."""
        file = Outgoing(self._folder / key)
        try:
            info = await self._do(file.open)
            yield Reader(info, partial(self._read, file)) if info else None
        finally:
            await self._tidying.finish(self._at_last(file.close))

    async def aclose(self) -> None:
        """Wait for what is still being removed."""
        await self._tidying.aclose(self._patience)

    async def _read(self, file: Outgoing, first: int, count: int) -> bytes:
        return await self._do(file.read, first, count)

    async def _at_last(self, work: Callable[[], None]) -> None:
        """Do *work*. If it is late, its thread still does it when it can; if it fails, the sweep is left."""
        with suppress(StoreError):
            await self._do(work)

    async def _do(self, work: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        return await self._within(self._patience, work, *args)

    async def _within(self, seconds: float, work: Callable[[Unpack[Ts]], T], *args: *Ts) -> T:
        """Do *work* in a thread. Raises `StoreError` for what the disk says, and when it says nothing."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                return await loop.run_in_executor(self._threads, work, *args)
        except TimeoutError as error:
            raise StoreUnavailable("The disk of the object store does not answer in time.") from error
        except OSError as error:
            if error.errno in FULL:
                raise StoreFull("The object store has no room left on its disk.") from error
            raise StoreUnavailable("The folder of the object store cannot be used.") from error


def _make(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _check(folder: Path, reserve: int) -> None:
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, "missing, or not ours to write to")
    require_room(folder, reserve)


@asynccontextmanager
async def open_local_objects(
    folder: Path,
    signer: UrlSigner,
    clock: Callable[[], float],
    *,
    base: str = "",
    reserve: int = RESERVE,
    patience: float = PATIENCE,
) -> AsyncIterator[LocalObjects]:
    """The store in *folder*, until the end of the context; see `LocalObjects`."""
    threads = ThreadPoolExecutor(THREADS, "objects")
    store = LocalObjects(folder, signer, base, threads, clock, reserve, patience)
    try:
        yield store
    finally:
        await store.aclose()
        threads.shutdown(wait=False, cancel_futures=True)
