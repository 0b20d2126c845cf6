"""A circuit's memory that several worker processes share: one record of a file that they inherit.

The parent makes a `SharedFile` before it forks. Times in it are of the monotonic clock, which all processes
of a machine read alike. Writers hold a POSIX record lock, which the kernel gives back when its owner dies;
readers take none: a record carries a checksum, and one that is torn is read again. A writer killed between
two bytes leaves a bad checksum: the circuit then counts as closed, and three failures teach it again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from upstream.breaker import Memory, State

_BODY = struct.Struct("<BIIdB16d")
"""State, generation, openings, until, number of failures, their times (`BreakerOptions.failures` ≤ 16)."""
_SUM = struct.Struct("<I")
RECORD = 256
_STATES = list(State)


class SharedFile:
    """Room for *circuits* records. Make it before forking; it vanishes with the last process that has it."""

    def __init__(self, circuits: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as this object
        self._file.truncate(circuits * RECORD)
        self.descriptor = self._file.fileno()
        self._map = mmap.mmap(self.descriptor, circuits * RECORD)
        for number in range(circuits):
            self.store(number).write(Memory())

    def store(self, number: int) -> SharedStore:
        """The store of circuit *number*, counted from 0."""
        return SharedStore(self.descriptor, self._map, number * RECORD)

    def close(self) -> None:
        """Let go of the file; stores of it must not be used any more."""
        self._map.close()
        self._file.close()


def attach(descriptor: int, number: int) -> SharedStore:
    """The store of circuit *number* in a `SharedFile` that another process made and handed down."""
    shared = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    return SharedStore(descriptor, shared, number * RECORD)


class SharedStore:
    """A `upstream.breaker.Store` in a `SharedFile`."""

    def __init__(self, descriptor: int, shared: mmap.mmap, offset: int) -> None:
        self._descriptor = descriptor
        self._map = shared
        self._at = offset

    def read(self) -> Memory:
        for _ in range(3):  # a torn read is over in a microsecond; one that stays is a killed writer's
            start = self._at + _SUM.size
            body = self._map[start : start + _BODY.size]
            [checksum] = _SUM.unpack_from(self._map, self._at)
            if checksum == zlib.crc32(body):
                state, generation, openings, until, count, *failures = _BODY.unpack(body)
                return Memory(_STATES[state], generation, openings, until, tuple(failures[:count]))
        return Memory()

    def write(self, memory: Memory) -> None:
        failures = (*memory.failures, *(0.0,) * (16 - len(memory.failures)))
        body = _BODY.pack(
            _STATES.index(memory.state),
            memory.generation & 0xFFFFFFFF,
            memory.openings,
            memory.until,
            len(memory.failures),
            *failures,
        )
        _SUM.pack_into(self._map, self._at, 0)
        start = self._at + _SUM.size
        self._map[start : start + _BODY.size] = body
        _SUM.pack_into(self._map, self._at, zlib.crc32(body))

    @contextmanager
    def lock(self) -> Iterator[None]:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, RECORD, self._at)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, RECORD, self._at)
