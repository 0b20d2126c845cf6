"""Which addresses lead back to this server, so that nobody makes it call itself.

It knows what the listening sockets say, and asks the kernel which addresses are this machine's. An address
that is ours only on the outside of a NAT it cannot know; that is for the operator's `Policy.denied`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

from upstream.guard import Address, IsOwn, layers


def listening(sockets: Iterable[tuple[str, int]]) -> IsOwn:
    """
    Whether an address and port reach one of the listening *sockets*, each given as ``getsockname`` does
    (numeric host, port). A socket on ``0.0.0.0`` or ``::`` listens on every address of the machine.
    """
    heard = {(next(layers(ip_address(host))), port) for host, port in sockets}
    everywhere = {port for address, port in heard if address.is_unspecified}

    def is_own(address: Address, port: int) -> bool:
        return (address, port) in heard or (port in everywhere and of_this_machine(address))

    return is_own


def of_this_machine(address: Address) -> bool:
    """Whether *address* is one of ours: only those can be bound to. Nothing is sent. When in doubt, yes."""
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True
