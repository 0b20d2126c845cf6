"""What stands for the network: traps that count, a resolver that says what it is told, certain servers.

The addresses of loopback are many. A test declares one of them a stranger's (`HERE`), who may be called, and
sets its traps on the others.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_network

from aiohttp.abc import AbstractResolver, ResolveResult

from tests.faults.name_server import A, NameServer
from upstream.guard import Guard, IsOwn, Network, Policy, nobody

HERE = "127.0.0.1"
"""Where the receivers of the tests are."""
TRAPPED = "127.0.0.2"
"""Loopback too, and nobody's receiver."""


def networks(*texts: str) -> tuple[Network, ...]:
    """Networks from their texts."""
    return tuple(ip_network(text) for text in texts)


def guard_for(*ports: int, allowed: Sequence[str] = (), is_own: IsOwn = nobody) -> Guard:
    """A guard that lets ``http`` pass to *ports*, and to *allowed* besides the public addresses."""
    return Guard(Policy(http=True, ports=frozenset(ports), allowed=networks(*allowed)), is_own)


class Trap:
    """Listeners that count who comes. See `trap`."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    def sprung(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Somebody came."""
        self.connections += 1
        writer.transport.abort()


@asynccontextmanager
async def trap(*hosts: str, port: int = 0) -> AsyncIterator[Trap]:
    """Listen on each of *hosts* at one *port* (0 for a free one)."""
    found = Trap()
    servers = []
    try:
        for host in hosts:
            servers.append(await asyncio.start_server(found.sprung, host, found.port or port))
            found.port = servers[0].sockets[0].getsockname()[1]
        yield found
    finally:
        for server in servers:
            server.close()
            await server.wait_closed()


class FakeResolver(AbstractResolver):
    """
    A resolver of the worst kind: any name that ``inet_aton`` takes for a number is that number, ``localhost``
    is loopback, and the *n*-th question for any other name is answered by ``zone(n)``.

    Attributes:
        asked: the names, in order.
    """

    def __init__(self, zone: Callable[[int], Sequence[str]]) -> None:
        self._zone = zone
        self._number = 0
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of *host*."""
        self.asked.append(host)
        return [self._result(host, address, port) for address in self._addresses(host)]

    def _addresses(self, host: str) -> Sequence[str]:
        try:
            return [socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))]
        except OSError:
            pass
        if "localhost" in host.lower():
            return [HERE, "::1"]
        number, self._number = self._number, self._number + 1
        found = self._zone(number)
        if not found:
            raise OSError(None, "no such name")
        return found

    def _result(self, host: str, address: str, port: int) -> ResolveResult:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)

    async def close(self) -> None:
        """Nothing was opened."""


class Alias(NameServer):
    """A name server for which every name is another name for ``inner.example.net``."""

    _INNER = b"\5inner\7example\3net\0"

    def _record(self, kind: int, address: bytes) -> bytes:
        """CNAME and address; the sender has to count two."""
        alias = struct.pack("!HHHIH", 0xC00C, 5, 1, 60, len(self._INNER)) + self._INNER
        return alias + self._INNER + struct.pack("!HHIH", kind, 1, 60, len(address)) + address

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """Answer; an answer to A has two records."""
        end = data.index(b"\0", 12) + 5
        kind = struct.unpack_from("!H", data, end - 4)[0]
        self.asked[kind] += 1
        found = self._zones[kind](0) or ()
        records = b"".join(self._record(kind, socket.inet_aton(one)) for one in found if kind == A)
        count = 2 * len(found) if kind == A else 0
        head = struct.pack("!HHHHHH", int.from_bytes(data[:2]), 0x8180, 1, count, 0, 0)
        self._transport.sendto(head + data[12:end] + records, addr)
