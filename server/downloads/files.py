"""One file at a time, as threads may handle it: written beside its place and moved there whole, or read.

Plain blocking code. A call may still be at work in its thread when whoever asked for it has given up, so
each file has a lock, and ends once: nobody closes a descriptor under a call that uses it.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from stat import S_ISREG
from threading import Lock

from server.downloads.objects import ObjectInfo

SUFFIX = ".part"


class Incoming:
    """
    A file that is being written in *folder*, until `keep` moves it to its place or `discard` removes it.

    Every call raises OSError; with ``ENOSPC`` also when fewer than *reserve* bytes of the disk would be left.
    """

    def __init__(self, folder: Path, reserve: int) -> None:
        self._folder = folder
        self._reserve = reserve
        self._lock = Lock()
        self._file: tuple[int, Path] | None = None
        self._ended = False

    def write(self, block: bytes) -> None:
        """Add *block*."""
        with self._lock:
            descriptor, _ = self._opened()
            require_room(descriptor, self._reserve + len(block))
            rest = memoryview(block)
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    def keep(self, place: Path) -> None:
        """Make it last, and *place* it: in one step, and so that it is still there after a power cut."""
        with self._lock:
            descriptor, path = self._opened()
            os.fsync(descriptor)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
            self._end()
            _sync_folder(place.parent)

    def discard(self) -> None:
        """Remove it, if it is not kept."""
        with self._lock:
            if self._file is not None:
                self._file[1].unlink(missing_ok=True)
            self._end()

    def _opened(self) -> tuple[int, Path]:
        if self._ended:
            raise OSError(errno.EBADF, "the file has been given up")
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(SUFFIX, dir=self._folder)
            self._file = descriptor, Path(name)
        return self._file

    def _end(self) -> None:
        self._ended = True
        if self._file is not None:
            os.close(self._file[0])
            self._file = None


class Outgoing:
    """A file that is read from, after `open` and until `close`. Every call raises OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._descriptor: int | None = None
        self._ended = False

    def open(self) -> ObjectInfo | None:
        """Open it; returns what is known of what will be read, whatever takes its place. None: no file."""
        with self._lock:
            if self._ended:
                return None
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
            return info_of(os.fstat(self._descriptor))

    def read(self, first: int, count: int) -> bytes:
        """Up to *count* bytes from *first*."""
        with self._lock:
            if self._descriptor is None:
                raise OSError(errno.EBADF, "the file is not open")
            return os.pread(self._descriptor, count, first)

    def close(self) -> None:
        """Close it for good."""
        with self._lock:
            self._ended = True
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None


def info_of(found: os.stat_result) -> ObjectInfo:
    """What a file's status tells of the object in it."""
    return ObjectInfo(found.st_size, f"{found.st_mtime_ns:x}-{found.st_size:x}", found.st_mtime)


def info_at(path: Path) -> ObjectInfo | None:
    """What is known of the file at *path*; None if there is no plain file."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return info_of(found) if S_ISREG(found.st_mode) else None


def require_room(where: int | Path, room: int) -> None:
    """Raises OSError (``ENOSPC``) if the disk has fewer than *room* bytes left for us."""
    disk = os.statvfs(where)
    if disk.f_bavail * disk.f_frsize < room:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def remove_stale(folder: Path, before: float) -> int:
    """Remove the files in *folder* that nobody has written to since *before*; returns how many."""
    gone = 0
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            if path.stat().st_mtime < before:
                path.unlink()
                gone += 1
        except FileNotFoundError:
            pass  # kept, or discarded, just now
    return gone


def _sync_folder(folder: Path) -> None:
    """A move is in the folder, and the folder is a file too."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
