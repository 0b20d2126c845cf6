"""A name server on loopback that answers as a test wants it to, in DNS's own bytes.

It serves any name. No library: what it says must be able to be wrong.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TypeAlias

NO_ERROR, SERVFAIL, NXDOMAIN = 0, 2, 3
A, AAAA = 1, 28

Zone: TypeAlias = Callable[[int], Sequence[str] | None]
"""The addresses of every name, for the n-th question of its kind; None for no answer at all."""


def always(*addresses: str) -> Zone:
    """The same addresses each time."""
    return lambda number: addresses


nowhere = always()


def never(number: int) -> Sequence[str] | None:
    """No word."""
    return None


class NameServer(asyncio.DatagramProtocol):
    """
    Listens while its ``async with`` block runs.

    Args:
        v4, v6: what A and AAAA questions are answered with.
        code: the response code of every answer.
        ttl: seconds for which it says an answer holds.

    Attributes:
        asked: how many questions came, by their type.
    """

    def __init__(self, v4: Zone = nowhere, v6: Zone = nowhere, code: int = NO_ERROR, ttl: int = 60) -> None:
        self._zones = {A: v4, AAAA: v6}
        self._code = code
        self._ttl = ttl
        self.asked = {A: 0, AAAA: 0}

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self._transport = transport
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()
        await asyncio.sleep(0)

    @property
    def address(self) -> str:
        """``host:port``, as a resolver takes it."""
        host, port = self._transport.get_extra_info("sockname")
        return f"{host}:{port}"

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        end = data.index(b"\0", 12) + 5  # the name, its type and its class
        kind = struct.unpack_from("!H", data, end - 4)[0]
        number, self.asked[kind] = self.asked[kind], self.asked[kind] + 1
        found = self._zones[kind](number)
        if found is None:
            return
        records = b"".join(self._record(kind, ipaddress.ip_address(one).packed) for one in found)
        head = struct.pack("!HHHHHH", int.from_bytes(data[:2]), 0x8180 | self._code, 1, len(found), 0, 0)
        self._transport.sendto(head + data[12:end] + records, addr)

    def _record(self, kind: int, address: bytes) -> bytes:
        return struct.pack("!HHHIH", 0xC00C, kind, 1, self._ttl, len(address)) + address
