"""When a request reached this machine, which is earlier than when we got round to reading it.

In a burst the loop is busy with the requests before, and bytes wait in the kernel for tens of milliseconds
that the caller's timeout already counts. Linux tells how long ago it received the last data on a connection
(``TCP_INFO``, ``tcpi_last_data_recv``), in ticks of up to 4 ms; the error seen was -3.5 to +3.7 ms.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

_OFFSET = 52
"""Of ``tcpi_last_data_recv`` in ``struct tcp_info``: a ``u32`` in milliseconds, the same since Linux 2.6."""
_FIELD = struct.Struct("I")
TICK = 0.004
"""Seconds within which the kernel's word is no better than ours."""
OLDEST = 60.0
"""Seconds beyond which the kernel speaks of something else."""


def age_reader(transport: asyncio.BaseTransport | None) -> Callable[[], float]:
    """
    A function that tells, right after data came in on *transport*, how many seconds it had waited in the
    kernel; 0.0 when that is less than a tick, or cannot be known.
    """
    sock = transport.get_extra_info("socket") if transport is not None else None
    if (
        sock is None
        or sock.family not in (socket.AF_INET, socket.AF_INET6)
        or not hasattr(socket, "TCP_INFO")
    ):
        return lambda: 0.0
    option = sock.getsockopt

    def age() -> float:
        try:
            info = option(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _FIELD.size)
        except OSError:  # the connection is gone; whoever writes to it will see
            return 0.0
        seconds: float = _FIELD.unpack_from(info, _OFFSET)[0] / 1000
        return seconds if TICK < seconds < OLDEST else 0.0

    return age
