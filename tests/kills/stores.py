"""The two job stores that are killed: the one that servers keep for themselves, and a real Redis."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import redis

from server.job_store.opening import FOLDER
from server.job_store.valkey_process import Files, lives
from tests.job_store.stores import wait_for

STARTS_WITHIN = 30.0
MISSING = "There is no redis-server here. Install Debian's: apt-get install -y redis-server"


class Store(Protocol):
    """
    Attributes:
        environ: how servers are told of it.
        url: where it is.
    """

    environ: dict[str, str]
    url: str

    def kill(self) -> None:
        """As a crash would end it, and then see to it that it is back some time."""

    def close(self) -> None:
        """Nobody uses it any more: be sure that it is gone."""


class Embedded:
    """The store of the servers themselves: they start it, and start it again."""

    def __init__(self, data: Path) -> None:
        self.environ: dict[str, str] = {}
        self._files = Files(data / FOLDER)
        self.url = f"unix://{self._files.socket}"

    def kill(self) -> None:
        with suppress(redis.RedisError), redis.Redis.from_url(self.url, socket_timeout=1.0) as client:
            pid = client.info("server")["process_id"]
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        wait_for(lambda: not lives(self._files), STARTS_WITHIN)


class Debian:
    """Redis as Debian packages it, which writes down what it acknowledges."""

    def __init__(self, folder: Path) -> None:
        found = shutil.which("redis-server")
        if found is None:
            raise FileNotFoundError(MISSING)
        self._sockets = Path(tempfile.mkdtemp(prefix="hedgerow-"))  # a socket's path has to be short
        socket = self._sockets / "redis.sock"
        folder.mkdir()
        settings = {
            "port": "0",
            "unixsocket": str(socket),
            "dir": str(folder),
            "logfile": str(folder / "log"),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "always",
        }
        words = (word for name, text in settings.items() for word in (f"--{name}", text))
        self._command = [found, *words]
        self.url = f"unix://{socket}"
        self.environ = {"REDIS_URL": self.url}
        self._ping = redis.Redis.from_url(self.url, socket_timeout=1.0)
        self._process = self._start()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._ping.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        wait_for(lambda: process.poll() is not None or self._answers(), STARTS_WITHIN)
        assert process.poll() is None, "Redis has ended"
        return process

    def _answers(self) -> bool:
        try:
            return bool(self._ping.ping())
        except redis.RedisError:
            return False
