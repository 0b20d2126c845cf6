"""A real S3 server beside the tests: SeaweedFS, one process, its data thrown away."""

from __future__ import annotations

import random
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


@contextmanager
def seaweed(folder: Path) -> Iterator[S3Server]:
    """The server, running. Fails if it cannot be started; another process may take a port just then."""
    for attempt in range(ATTEMPTS):
        ports = [_free_port() for _ in range(5)]
        server = S3Server(ports[0])
        data = folder / f"data{attempt}"
        data.mkdir(parents=True)
        with (data / "log").open("wb") as log:
            process = subprocess.Popen(
                _command(data, ports),
                env={
                    "HOME": str(data),
                    "AWS_ACCESS_KEY_ID": server.access_key_id,
                    "AWS_SECRET_ACCESS_KEY": server.secret_access_key,
                },
                cwd=data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            if _ready(process, server):
                yield server
                return
        finally:
            _end(process)
    raise AssertionError(f"SeaweedFS did not start: {(data / 'log').read_text(errors='replace')[-3000:]}")


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


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
