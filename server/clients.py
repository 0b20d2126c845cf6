"""Who a client is, for limits and caps: one text per network address, which the client cannot choose.

It knows addresses and the one header that proxies write; no accounts, no cookies, no limits. ``Forwarded``
(RFC 7239) is not read: a proxy that appends to one of the two headers passes the other on as it came, so who
believes both believes the client.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import islice
from typing import TypeAlias

from aiohttp import web

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

FORWARDED_FOR = "X-Forwarded-For"
MOST_HOPS = 16
"""Hops that are looked at. Chains of proxies are short; a header of 8 KiB may hold four thousand."""
NO_ADDRESS = "unix"
"""The client behind a peer without an address: all that come over a Unix socket are one."""

_WITH_PORT = re.compile(r"(?:\[([^\[\]]*)\]|([0-9.]+))(?::[0-9]{1,5})?")
_NAT64 = IPv6Network("64:ff9b::/96")


class Clients:
    """
    Args:
        trusted: the proxies whose word is taken for whom they forward, as `parse_networks` gives them.
    """

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusted = tuple(trusted)

    def of(self, request: web.BaseRequest) -> str:
        """The client of *request*, as `client_of` names it."""
        return self.client_of(request.remote, request.headers.getall(FORWARDED_FOR, ()))

    def client_of(self, peer: str | None, forwarded_for: Sequence[str]) -> str:
        """
        The client behind *peer*: ``203.0.113.7``, ``2001:db8:1:2::/64`` or `NO_ADDRESS`.

        It is the peer, or for a trusted one the right-most hop of *forwarded_for* that is not trusted itself.
        Where all are trusted it is the farthest, and before a hop that is no address the last one that is.

        An IPv6 client is its /64, the least that a subscriber is given (RFC 6177): inside of it, it has more
        addresses to change between than any table could hold.

        Args:
            peer: the address at the other end of the connection; empty or None for a Unix socket.
            forwarded_for: the fields ``X-Forwarded-For`` of the request, in their order.
        """
        client = _read(peer or "")
        if client is None:
            return NO_ADDRESS
        for hop in islice(_from_the_right(forwarded_for), MOST_HOPS):
            if not self._trusts(client):
                break
            before = _read(hop)
            if before is None:
                break
            client = before
        return _named(client)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._trusted)


def parse_networks(text: str) -> tuple[Network, ...]:
    """
    The addresses and networks (CIDR) in *text*, separated by commas.

    Raises:
        ValueError: names the entry that is neither; also one with bits beside its network, which is a slip,
            and an IPv4-mapped one, which would never match.
    """
    return tuple(_network(entry.strip()) for entry in text.split(",") if entry.strip())


def _network(entry: str) -> Network:
    try:
        network = ipaddress.ip_network(entry)
    except ValueError:
        raise ValueError(f"{entry[:60]!r} is not an IP address or network.") from None
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{entry[:60]!r} has to be written as IPv4.")
    return network


def _from_the_right(fields: Sequence[str]) -> Iterator[str]:
    """The hops in all *fields*, the last one first, without splitting what nobody asks for."""
    for field in reversed(fields):
        rest, comma = field, ","
        while comma:
            rest, comma, hop = rest.rpartition(",")
            yield hop


def _read(text: str) -> Address | None:
    """The address that *text* says, with or without a port; None if it says none."""
    text = text.strip(" \t")
    if found := _WITH_PORT.fullmatch(text):
        text = found[1] or found[2] or ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return address if isinstance(address, IPv4Address) else _plain(address)


def _plain(address: IPv6Address) -> Address:
    """*address*, or the IPv4 address that it is another spelling of."""
    if address in _NAT64:  # all of IPv4 in a single /64
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address


def _named(address: Address) -> str:
    """Without what a caller can change: the host's half of an IPv6 address, and the zone."""
    if isinstance(address, IPv4Address):
        return str(address)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"
