"""Whether a URL that a caller gave may be called back, told from its text alone.

Two parsers that read one text differently are how such checks are passed by, so the grammar here is narrow:
what it cannot read plainly it denies, and what it hands on is a URL that was read back and found the same.
It asks no name server: an address is judged when it is dialled.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

import idna
from yarl import URL

from upstream.guard import Address, Denied, Guard

MAX_BYTES = 2048
MAX_HOST = 253
PORTS = {"https": 443, "http": 80}

_REST = re.compile(r"([^/?]*)(.*)")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label that makes of a host a number in the eyes of ``inet_aton``: ``0x7f.1``, ``2130706433``."""
_INNER = ("localhost", "localdomain", "local", "internal", "home.arpa")
"""Where names end that only a private network has."""


def check_url(text: str, guard: Guard) -> URL:
    """
    The URL that *text* is. Its ``str`` passes this check again.

    Raises:
        Denied: if it is not a URL that *guard* would let anybody call, or only might be.
    """
    _check_characters(text)
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme != "https" and not (scheme == "http" and guard.policy.http):
        raise Denied("the scheme is not allowed")
    authority, tail = _split(rest)
    if "@" in authority or "%" in authority:
        raise Denied("there is more than a host and a port before the path")
    host, port_text = _host_and_port(authority)
    port = PORTS[scheme] if port_text is None else _port(port_text)
    guard.check_port(port)
    if host.startswith("["):
        address: Address | None = _v6(host[1:-1])
    else:
        host = _name(host)
        address = _v4(host, authority)
    if address is not None:
        guard.check(address, port)
    elif not guard.policy.inner_names and _is_inner(host):
        raise Denied(f"{host} is not a public name")
    return _read_back(scheme, host, port, tail)


def _check_characters(text: str) -> None:
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise Denied(f"longer than {MAX_BYTES} bytes")
    # Not printable are controls, every kind of blank but the space, invisible marks, lone surrogates.
    if not text.isprintable() or set(text) & set(" \\#"):
        raise Denied("a character that has no place in a callback URL")


def _split(rest: str) -> tuple[str, str]:
    """Authority, and path with query."""
    match = _REST.fullmatch(rest)
    if match is None or not match[1]:
        raise Denied("no host")
    return match[1], match[2]


def _host_and_port(authority: str) -> tuple[str, str | None]:
    """The host, in brackets if it is, and the digits behind the colon, None without a colon."""
    end = authority.find("]") + 1 if authority.startswith("[") else authority.find(":")
    if end < 0:
        return authority, None
    host, tail = authority[:end], authority[end:]
    if not host or (tail and not tail.startswith(":")):
        raise Denied("the host cannot be read")
    return host, tail[1:] if tail else None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5) or text.startswith("0"):
        raise Denied("the port is not a plain number")
    return int(text)


def _v6(text: str) -> IPv6Address:
    try:
        return IPv6Address(text)
    except AddressValueError:
        raise Denied("what is in brackets is not an address") from None


def _name(host: str) -> str:
    """*host* in lower case and in the letters of DNS."""
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True, std3_rules=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise Denied("the host is not a name in any language") from None
    host = host.lower()
    if len(host) > MAX_HOST or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise Denied("the host is not a name")
    return host


def _v4(host: str, authority: str) -> IPv4Address | None:
    """The address that *host* is, None for a name. A number is written in one way only."""
    if not _NUMBER.fullmatch(host.rpartition(".")[2]):
        return None
    try:
        address = IPv4Address(host)
    except AddressValueError:
        raise Denied("the host is a number that is not written as an address") from None
    if authority.partition(":")[0] != str(address):
        raise Denied("the host is an address in other letters")
    return address


def _is_inner(host: str) -> bool:
    return "." not in host or host.endswith(tuple(f".{name}" for name in _INNER))


def _read_back(scheme: str, host: str, port: int, tail: str) -> URL:
    """The URL as the HTTP client will read it, if that is what was read here."""
    try:
        url = URL(f"{scheme}://{host}:{port}{tail}")
        read = (url.scheme, url.raw_host, url.port, url.user, url.password)
    except ValueError:
        raise Denied("not a URL") from None
    if host.startswith("["):
        host = str(IPv6Address(host[1:-1]))
    if read != (scheme, host, port, None, None):
        raise Denied("the URL can be read in two ways")
    if len(str(url)) > MAX_BYTES:
        raise Denied(f"longer than {MAX_BYTES} bytes")
    return url
