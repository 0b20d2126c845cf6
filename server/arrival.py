"""When a request reached this machine, which is earlier than when we got round to reading it.

In a burst the loop is busy with the requests before, and bytes wait in the kernel for tens of milliseconds
that the caller's timeout already counts. Linux tells how long ago it received the last data on a connection
(``TCP_INFO``, ``tcpi_last_data_recv``), in ticks of up to 4 ms; the error seen was -3.5 to +3.7 ms.
"""

from __future__ import annotations

import asyncio
import socket
import struct

_OFFSET = 52
"""Of ``tcpi_last_data_recv`` in ``struct tcp_info``: a ``u32`` in milliseconds, the same since Linux 2.6."""
_FIELD = struct.Struct("I")
TICK = 0.004
"""Seconds within which the kernel's word is no better than ours."""
OLDEST = 60.0
"""Seconds beyond which the kernel speaks of something else."""


class Arrival:
    """Tells, right after data came in on *transport*, for how many seconds it had waited in the kernel."""

    __slots__ = ("_option",)

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        told = sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6)
        # uvloop makes a socket object for each question (2 µs of 3). One that is kept would be faster, and
        # would close a descriptor that is somebody else's by then, when a loop ends before its connections.
        self._option = sock.getsockopt if told and hasattr(socket, "TCP_INFO") else None

    def age(self) -> float:
        """0.0 when it is less than a tick, or cannot be known."""
        if self._option is None:
            return 0.0
        try:
            info = self._option(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _FIELD.size)
        except OSError:  # the connection is gone; whoever writes to it will see
            return 0.0
        seconds: float = _FIELD.unpack_from(info, _OFFSET)[0] / 1000
        return seconds if TICK < seconds < OLDEST else 0.0
