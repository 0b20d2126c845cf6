"""A real S3 server beside the tests: SeaweedFS, one process, its data thrown away."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STARTS_WITHIN = 30.0
"""Seconds; it takes about one."""
ENDS_WITHIN = 10.0
ATTEMPTS = 3
GRPC = 10_000
"""How far above each port it opens a second one."""


@dataclass(frozen=True)
class S3Server:
    """Where it is, and who may ask it."""

    port: int
    access_key_id: str = "hedgerow"
    secret_access_key: str = "hedgerow-secret"

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"


class Seaweed:
    """
    A SeaweedFS with its data in *folder*, on those *ports*; running once `start` has returned.

    Attributes:
        server: how clients are told of it, the same after every start.
    """

    def __init__(self, folder: Path, ports: list[int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.server = S3Server(ports[0])
        self._folder = folder
        self._ports = ports
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again on the same data; returns when it answers. Fails if it does not come up."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                _command(self._folder, self._ports),
                env={
                    "HOME": str(self._folder),
                    "AWS_ACCESS_KEY_ID": self.server.access_key_id,
                    "AWS_SECRET_ACCESS_KEY": self.server.secret_access_key,
                },
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if not _ready(self._process, self.server):
            raise AssertionError(f"SeaweedFS did not start: {self._log.read_text(errors='replace')[-3000:]}")

    def kill(self) -> None:
        """As a crash would end it; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def wipe(self) -> None:
        """Let it forget all that it had; it must not run."""
        shutil.rmtree(self._folder)
        self._folder.mkdir()

    def close(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                self.kill()

    @property
    def _log(self) -> Path:
        return self._folder / "log"


@contextmanager
def seaweed(folder: Path) -> Iterator[Seaweed]:
    """A server that runs, until the end of the block. Another process may take a port before it does."""
    for attempt in range(ATTEMPTS):
        own = Seaweed(folder / f"data{attempt}", [_free_port() for _ in range(5)])
        try:
            own.start()
            break
        except AssertionError:
            own.close()
            if attempt + 1 == ATTEMPTS:
                raise
    try:
        yield own
    finally:
        own.close()


def _command(data: Path, ports: list[int]) -> list[str]:
    weed = Path(sysconfig.get_path("scripts")) / "weed"
    names = ("s3.port", "filer.port", "master.port", "volume.port", "admin.port")
    return [
        *(str(weed), "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        *("-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        "-s3.autoCreateBucket=false",
    ]


def _free_port() -> int:
    """Below the ports that the kernel gives to connections, so that nobody gets it by chance."""
    while True:
        port = random.randrange(10_100, 22_000)
        try:
            for one in (port, port + GRPC):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", one))
        except OSError:
            continue
        return port


def _ready(process: subprocess.Popen[bytes], server: S3Server) -> bool:
    """Whether it came up. This waits for another process, which has no event to wait for."""
    give_up = time.monotonic() + STARTS_WITHIN
    while process.poll() is None and time.monotonic() < give_up:
        try:
            with urllib.request.urlopen(f"{server.endpoint}/healthz", timeout=1):  # noqa: S310
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    return False
