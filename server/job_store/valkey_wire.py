"""One connection to a Valkey on a Unix socket, for whoever has to know at once that its process is gone.

A pooled client finds that out with its next command; this one waits for it. It knows one-line commands and
one-line answers and nothing of what they mean.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import TracebackType


class Wire:
    """An open connection; `async with` closes it. Once it is lost every answer is empty."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def __aenter__(self) -> Wire:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.transport.abort()

    def say(self, command: str) -> None:
        """Send *command*, to which one line is the answer."""
        self._writer.write(f"{command}\r\n".encode())

    async def answer(self) -> str:
        """The next line, however late; "" once the connection is lost. May be cancelled, and asked again."""
        try:
            return (await self._reader.readline()).decode(errors="replace").strip()
        except OSError:
            return ""

    async def lost(self, within: float) -> bool:
        """Whether it is lost *within* so many seconds. Nothing may be left unanswered."""
        try:
            async with asyncio.timeout(within):
                return not await self.answer()
        except TimeoutError:
            return False


async def open_wire(socket: Path) -> Wire | None:
    """A connection; None if nobody listens. One who hangs does listen."""
    try:
        return Wire(*await asyncio.open_unix_connection(socket))
    except OSError:
        return None
