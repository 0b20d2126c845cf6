"""Which addresses a URL that a caller gave may lead to: a decision on numbers, without a socket.

It knows nothing of names, URLs and HTTP: a name says one thing when it is registered and another when it is
dialled, so whoever connects asks here for the address it is about to use. Every denial has the same text,
or the answers would be a map of the network behind us.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from strategies import value

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
IsOwn: TypeAlias = Callable[[Address, int], bool]
"""Whether this server itself listens at an address and port."""

DENIED = "This callback address is not allowed."
"""All that a caller is told, whatever the reason."""


class Denied(OSError):
    """
    No connection is to be made. Its text is `DENIED`, always.

    Attributes:
        why: the reason in words, for our own log and for nobody else.
    """

    def __init__(self, why: str) -> None:
        super().__init__(DENIED)
        self.why = why


@value
class Policy:
    """
    What an operator decides; as it stands, what is right on the public internet.

    Attributes:
        http: whether ``http`` URLs are taken, besides ``https``.
        ports: the ports that may be dialled.
        allowed: networks that may be reached although they are on the list below. An address that wraps
            another one (NAT64, 6to4, Teredo) still needs both to be allowed.
        denied: networks that may not, besides: our own public addresses, a NAT64 prefix of our own.
        inner_names: whether names that only a private network has (``redis``, ``db.internal``) are taken.
    """

    http: bool = False
    ports: frozenset[int] = frozenset({443, 8443})
    allowed: tuple[Network, ...] = ()
    denied: tuple[Network, ...] = ()
    inner_names: bool = False


def nobody(address: Address, port: int) -> bool:
    """An `IsOwn` for a process that does not listen."""
    return False


class Guard:
    """Says no to every address that is not plainly somebody else's public one."""

    def __init__(self, policy: Policy, is_own: IsOwn = nobody) -> None:
        self.policy = policy
        self._is_own = is_own

    def check(self, address: Address, port: int) -> None:
        """
        Return if *address* and *port* may be connected to.

        Raises:
            Denied: if not.
        """
        self.check_port(port)
        for one in layers(address):
            if self._is_own(one, port):
                raise Denied(f"{address} port {port} is this server itself")
            if not self._is_open(one):
                raise Denied(f"{address} is not a public address")

    def check_port(self, port: int) -> None:
        """
        Return if *port* may be connected to.

        Raises:
            Denied: if not.
        """
        if port not in self.policy.ports:
            raise Denied(f"port {port} is not one of {sorted(self.policy.ports)}")

    def check_text(self, host: str, port: int) -> None:
        """
        As `check`, for an address as a resolver or a connector writes it.

        Raises:
            Denied: also if it cannot be read as an address.
        """
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise Denied(f"{host!r} is not an address") from None
        self.check(address, port)

    def _is_open(self, address: Address) -> bool:
        if _within(address, self.policy.denied):
            return False
        return _within(address, self.policy.allowed) or is_public(address)


def layers(address: Address) -> Iterator[Address]:
    """
    *address*, and each IPv4 address to which a translator or a tunnel would carry what is sent to it. An
    IPv4-mapped address is only another spelling: the kernel dials the IPv4 address.
    """
    if isinstance(address, IPv4Address):
        yield address
    elif address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    else:
        yield address
        if address in _NAT64:
            yield IPv4Address(int(address) & 0xFFFF_FFFF)
        if address.sixtofour is not None:
            yield address.sixtofour
        if address.teredo is not None:
            yield from address.teredo


def is_public(address: Address) -> bool:
    """
    Whether *address* is a host on the public internet. `ipaddress.is_global` alone will not do: what it calls
    global differs between versions of Python, and includes tunnels.
    """
    if isinstance(address, IPv6Address) and (address not in _UNICAST or address.scope_id is not None):
        return False
    return address.is_global and not _within(address, NOT_PUBLIC)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)


_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")
"""All that IANA has given out for hosts; outside of it there is nobody to call."""

NOT_PUBLIC: tuple[Network, ...] = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # shared by a provider's customers; metadata of one cloud
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # public by its number, but the inside of one cloud
            "169.254.0.0/16",  # link-local; metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments; metadata of one cloud
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/3",  # multicast, reserved, broadcast
            "::/96",  # unspecified, loopback, IPv4-compatible
            "64:ff9b::/96",  # NAT64
            "64:ff9b:1::/48",  # NAT64 for local use
            "100::/64",  # discard
            "2001::/23",  # protocol assignments, Teredo
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing
            "fc00::/7",  # private
            "fe80::/10",  # link-local
            "fec0::/10",  # site-local
            "ff00::/8",  # multicast
        ),
    )
)
"""Where no receiver of a stranger lives."""
