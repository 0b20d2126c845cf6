"""Debian's nginx with the configuration of the documentation, on loopback, as patient as a test wants it."""

from __future__ import annotations

import grp
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "nginx.conf"
STARTS_WITHIN = 20.0
"""Seconds; it takes a hundredth of one."""
ENDS_WITHIN = 10.0
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


class Nginx:
    """
    An nginx that runs.

    Attributes:
        url: where.
        folder: has its log and its configuration.
    """

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, port: int) -> None:
        self._process = process
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"

    def reload(self) -> None:
        """Read the configuration again: new workers take over, old ones have half a second to end."""
        self._process.send_signal(signal.SIGHUP)

    @property
    def log(self) -> str:
        """What it told of requests."""
        return (self.folder / "access.log").read_text()


def written(folder: Path, port: int, servers: tuple[int, ...], patience: int) -> str:
    """The example, with places and times of a test in it; what is to be changed has to be there, once."""
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    upstream = " ".join(f"server 127.0.0.1:{each} max_fails=0;" for each in servers)
    temporary = " ".join(f"{name}_temp_path {folder}/{name};" for name in TEMPORARY)
    text = EXAMPLE.read_text("utf-8")
    for old, new in {
        "user www-data;": f"user {user} {group};",
        "pid /run/nginx.pid;": f"pid {folder}/pid;",
        "worker_processes auto;": "worker_processes 1;",
        "worker_rlimit_nofile 65536;": "",
        "worker_connections 16384;": "worker_connections 512;",
        "worker_shutdown_timeout 60s;": "worker_shutdown_timeout 500ms;",
        "http {": f"http {{ {temporary}",
        "/var/log/nginx/access.log": f"{folder}/access.log",
        "/var/log/nginx/error.log": f"{folder}/error.log",
        "server 127.0.0.1:8000;": upstream,
        "listen 80;": f"listen 127.0.0.1:{port};",
        "proxy_read_timeout 30s;": f"proxy_read_timeout {patience}s;",
    }.items():
        assert text.count(old) == 1, f"the example has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(folder: Path, *servers: int, patience: int = 30) -> Iterator[Nginx]:
    """nginx in front of the servers at those ports, which waits *patience* seconds for what they say."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "there is no nginx here: apt-get install nginx"
    folder.mkdir()
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(written(folder, port, servers, patience))
    with (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [program, "-p", str(folder), "-c", str(configuration), "-g", "daemon off;"],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        _wait(process, folder, port)
        yield Nginx(process, folder, port)
    finally:
        process.terminate()
        try:
            process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], folder: Path, port: int) -> None:
    """Until it listens. This waits for another process, which has no event to wait for."""
    give_up = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < give_up:
        assert process.poll() is None, f"nginx ended: {(folder / 'stderr').read_text()}"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise AssertionError("nginx does not listen")


def free_port() -> int:
    """Below the ports that the kernel gives to connections, so that nobody gets it by chance."""
    while True:
        port = random.randrange(23_000, 32_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
