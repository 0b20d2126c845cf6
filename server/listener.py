"""Accepts connections, several in a turn of the loop.

uvloop accepts one connection per turn. While the loop is busy, a turn takes ten milliseconds and more, and
then callers wait in the queue of the kernel for seconds, who could be answered or refused at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

log = logging.getLogger("hedgerow.server")

PORTION = 32
"""Connections accepted in one turn, at most: 2 ms of work."""
PAUSE = 1.0
"""Seconds without accepting when no descriptor is left; asyncio waits as long."""


class Listener:
    """
    Args:
        sock: bound and listening.
        factory: makes the protocol of each connection.
    """

    def __init__(self, sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        self._sock = sock
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._paused: asyncio.TimerHandle | None = None
        self._arriving: set[asyncio.Task[object]] = set()
        sock.setblocking(False)

    def open(self) -> None:
        """Accept from now on."""
        self._paused = None
        self._loop.add_reader(self._sock, self._accept)

    async def close(self) -> None:
        """Accept no more, and close the socket; connections accepted a moment ago get their protocol."""
        self._loop.remove_reader(self._sock)
        while self._accept():  # to all of these the kernel has said yes
            pass
        if self._paused is not None:
            self._paused.cancel()
        self._sock.close()
        if self._arriving:
            await asyncio.wait(self._arriving)

    def _accept(self) -> bool:
        """A portion; whether there may be more."""
        for _ in range(PORTION):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False  # no more, or another worker was faster
            except OSError as error:  # no descriptors or memory: the socket stays readable, and we would spin
                log.warning("cannot accept connections for %g s: %s", PAUSE, error)
                self._loop.remove_reader(self._sock)
                self._paused = self._loop.call_later(PAUSE, self.open)
                return False
            sock.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, sock))
            self._arriving.add(task)
            task.add_done_callback(self._arrived)
        return True

    def _arrived(self, task: asyncio.Task[object]) -> None:
        self._arriving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a connection was lost while it was accepted: %s", error)
