"""Callers that time each answer, on connections that are kept. Lean: they may share a core.

One time per answer, from when its request is written to when its last byte is read.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; *status* is 0 when the connection broke before its end."""

    status: int
    seconds: float
    body: bytes = b""


class Callers:
    """Any number of callers of the server at *url*, each with a connection for itself while it waits."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def connect(self, count: int) -> None:
        """Have *count* connections ready, so that none has to be opened while the clock runs."""
        while len(self._idle) < count:
            self._idle.append(await asyncio.open_connection(self._host, self._port))

    async def get(self, target: str) -> Reply:
        """Ask for *target*, and read the whole answer."""
        reader, writer = await self._connection()
        started = time.perf_counter()
        try:
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
        except (OSError, EOFError):
            writer.close()
            return Reply(0, time.perf_counter() - started)
        took = time.perf_counter() - started
        if b"\r\nconnection: close" in head:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return Reply(int(head[9:12]), took, body)

    def close(self) -> None:
        """Hang up."""
        for _, writer in self._idle:
            writer.close()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)
