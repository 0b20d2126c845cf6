"""The server as a process of its own, within limits that a test sets: files, settings, what it may say."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIXED = {
    "SIMULATOR_FAILURE": "0",
    "SIMULATOR_INVALID": "0",
    "SIMULATOR_HANG": "0",
    "DRAIN_DELAY_MS": "0",
    "SHUTDOWN_TIMEOUT_MS": "1000",
    "ACCESS_LOG": "off",
    "DOWNLOADS": "off",
}
TICKS = os.sysconf("SC_CLK_TCK")


class Running:
    """
    A server that listens.

    Attributes:
        port: where.
        log: each line that it has written, as it comes.
    """

    def __init__(self, process: Process, port: int) -> None:
        self._process = process
        self.port = port
        self.log: list[str] = []
        self.callers: list[Caller] = []

    @property
    def cpu(self) -> float:
        """Seconds of CPU that it has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    async def connect(self) -> Caller:
        """A connection, which ends with the server at the latest."""
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.port))
        self.callers.append(caller)
        return caller

    async def listen_to_it(self) -> None:
        """Keep what it says, until it ends."""
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self.log.append(line.decode())


class Caller:
    """One connection of a caller."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, target: str) -> tuple[int, bytes]:
        """GET *target*; status and body."""
        self.writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)

    def close(self) -> None:
        """Hang up."""
        self.writer.transport.abort()


@asynccontextmanager
async def server(files: int | None = None, **environ: str) -> AsyncIterator[Running]:
    """A server with room for so many open *files*. On leaving it must end well, without a traceback."""
    command = [sys.executable, "-m", "server", "--port", "0"]
    if files is not None:
        command = ["sh", "-c", f'ulimit -n {files} && exec "$@"', "sh", *command]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **FIXED, **environ},
        stderr=PIPE,
    )
    listening: asyncio.Task[None] | None = None
    try:
        assert process.stderr is not None
        url = ""
        while not url:
            url = json.loads(await process.stderr.readline()).get("url", "")
        running = Running(process, int(url.rpartition(":")[2]))
        listening = asyncio.create_task(running.listen_to_it())
        yield running
        for caller in running.callers:
            caller.close()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
        await listening
        assert not [line for line in running.log if "Traceback" in line or '"error"' in line.lower()]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if listening is not None:
            await listening
