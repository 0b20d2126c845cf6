"""The addresses and URLs that must never be called, in every spelling that somebody's parser accepts.

Plain data and arithmetic. ``PORT`` in a URL stands for the port of the test's trap.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

V4 = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1"),
    *("127.0.0.53", "127.255.255.254", "168.63.129.16", "169.254.0.1", "169.254.169.254", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1"),
    *("192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1"),
    *("239.255.255.250", "240.0.0.1", "255.255.255.255"),
)
"""At least one of each range that is not public, and the services of clouds that give away keys."""

V6 = (
    *("::", "::1", "::127.0.0.1", "::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::1"),
    *("100::1", "2001::1", "2001:0:7f00:1::1", "2001:1ff::1", "2001:db8::1", "2002:7f00:1::1"),
    *("2002:808:808::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1"),
    *("febf::1", "fec0::1", "ff02::1", "::ffff:0:127.0.0.1", "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1"),
)


def _parts(address: str) -> list[int]:
    return [int(part) for part in address.split(".")]


def _short(address: str) -> str:
    first, second, third, fourth = _parts(address)
    return f"{first}.{second}.{third << 8 | fourth}"


def _wide(address: str) -> str:
    return "".join(chr(ord(one) + 0xFEE0) if one.isdigit() else one for one in address)


def _pair(address: str) -> str:
    number = int(IPv4Address(address))
    return f"{number >> 16:x}:{number & 0xFFFF:x}"


SPELLINGS: dict[str, Callable[[str], str]] = {
    "dotted": lambda one: one,
    "decimal": lambda one: str(int(IPv4Address(one))),
    "octal": lambda one: ".".join(f"0{part:o}" for part in _parts(one)),
    "octal in one": lambda one: f"0{int(IPv4Address(one)):o}",
    "hex": lambda one: ".".join(f"{part:#x}" for part in _parts(one)),
    "hex in one": lambda one: f"{int(IPv4Address(one)):#x}",
    "hex in capitals": lambda one: f"0X{int(IPv4Address(one)):X}",
    "short": _short,
    "padded": lambda one: ".".join(f"{part:03}" for part in _parts(one)),
    "trailing dot": lambda one: f"{one}.",
    "two trailing dots": lambda one: f"{one}..",
    "full-width digits": _wide,
    "full-width dots": lambda one: one.replace(".", "\uff0e"),
    "ideographic dots": lambda one: one.replace(".", "\u3002"),
    "percent-encoded": lambda one: "".join(f"%{ord(char):x}" for char in one),
    "bracketed": lambda one: f"[{one}]",
    "mapped": lambda one: f"[::ffff:{one}]",
    "mapped in hex": lambda one: f"[::ffff:{_pair(one)}]",
    "mapped in full": lambda one: f"[0:0:0:0:0:ffff:{_pair(one)}]",
    "compatible": lambda one: f"[::{_pair(one)}]",
    "translated": lambda one: f"[::ffff:0:{_pair(one)}]",
    "NAT64": lambda one: f"[64:ff9b::{_pair(one)}]",
    "6to4": lambda one: f"[2002:{_pair(one)}::1]",
    "Teredo server": lambda one: f"[2001:0:{_pair(one)}::1]",
    "with a zone": lambda one: f"[::ffff:{one}%25lo]",
}
"""Ways to write an address into a URL."""

BRACKETED_V6 = tuple(f"[{one}]" for one in V6)

HOSTS = tuple(spell(one) for spell in SPELLINGS.values() for one in V4) + BRACKETED_V6

TRICKS = (
    # who is the host?
    "http://hooks.example.com@127.0.0.1:PORT/",
    "http://hooks.example.com:80@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT@hooks.example.com:PORT/",
    "http://@127.0.0.1:PORT/",
    "http://a:b@127.0.0.1:PORT/",
    "http://hooks.example.com#@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT#@hooks.example.com/",
    "http://127.0.0.1:PORT/#",
    "http://hooks.example.com:PORT/#",
    "http://hooks.example.com:PORT/#@127.0.0.1/",
    "http://hooks.example.com:PORT/\\@127.0.0.1/",
    "http://hooks.example.com\\@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\@hooks.example.com/",
    "http://127.0.0.1:PORT\\.hooks.example.com/",
    "http:\\\\127.0.0.1:PORT\\",
    "http:/127.0.0.1:PORT/",
    "http:127.0.0.1:PORT/",
    "http:///127.0.0.1:PORT/",
    "//127.0.0.1:PORT/",
    "127.0.0.1:PORT/",
    "http://127.0.0.1:PORT?@hooks.example.com/",
    "http://127.0.0.1:PORT;@hooks.example.com/",
    "http://127.0.0.1%2f@hooks.example.com:PORT/",
    "http://127.0.0.1:PORT:443/",
    "http://127.0.0.1 :PORT/",
    "http://hooks.example.com,127.0.0.1:PORT/",
    "http://{127.0.0.1}:PORT/",
    "http://[::1:PORT/",
    "http://::1:PORT/",
    "http://[::1]hooks.example.com:PORT/",
    "http://[::1].hooks.example.com:PORT/",
    "http://hooks.example.com[::1]:PORT/",
    "http://[[::1]]:PORT/",
    "http://[localhost]:PORT/",
    "http://[v1.127.0.0.1]:PORT/",
    "http://[::1%25lo]:PORT/",
    "http://[2606:4700::1111%lo]:PORT/",
    "http://[fe80::1%eth0]:PORT/",
    "http://[fe80::1%25eth0]:PORT/",
    # marks that some parsers drop
    " http://127.0.0.1:PORT/",
    "http://hooks.example.com:PORT/ HTTP/1.1",
    "http://127.0.0.1:PORT/ ",
    "http://127.0.\t0.1:PORT/",
    "http://127.0.0.1\n:PORT/",
    "ht\ntp://127.0.0.1:PORT/",
    "http://127.0.0.1:PORT/\r\nHost: hooks.example.com",
    "http://127.0.0.1\0.hooks.example.com:PORT/",
    "http://127.0.0.1\u200b:PORT/",
    "http://127.0.\u00ad0.1:PORT/",
    "http://127.0.0.1\u2028:PORT/",
    "http://127.0.0.1\u00a0:PORT/",
    "http://\ufeff127.0.0.1:PORT/",
    "http://127.0.0.1:PORT/\x7f",
    "http://127.0.0.1:PORT/\ud800",
    "http://hooks.example.com:PORT/\x00",
    # letters that become others
    "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460:PORT/",
    "http://\u2113ocalhost:PORT/",
    "http://LOC\uff21LHOST:PORT/",
    "http://127.0.0.1\u2100.hooks.example.com:PORT/",
    "http://\u0967\u0968\u096d.0.0.1:PORT/",
    # short for loopback
    "http://0:PORT/",
    "http://1:PORT/",
    "http://127.1:PORT/",
    "http://0x7f.1:PORT/",
    "http://0x7F000001:PORT/",
    "http://017700000001:PORT/",
    "http://0177.0x0.0.01:PORT/",
    "http://4294967297:PORT/",
    "http://127.0.0.1.0:PORT/",
    "http://127.0.0.256:PORT/",
    "http://-127.0.0.1:PORT/",
    # names
    "http://localhost:PORT/",
    "http://LocalHost:PORT/",
    "http://localhost.:PORT/",
    "http://a.localhost:PORT/",
    "http://localhost.localdomain:PORT/",
    "http://localhost6:PORT/",
    "http://ip6-localhost:PORT/",
    "http://redis:PORT/",
    "http://metadata.google.internal:PORT/",
    "http://router.local:PORT/",
    "http://nas.home.arpa:PORT/",
    "http://%6c%6f%63alhost:PORT/",
    "http://.:PORT/",
    "http://..:PORT/",
    "http://hooks..example.com:PORT/",
    "http://-hooks.example.com:PORT/",
    "http://hooks_.example.com:PORT/",
    "http://" + "a" * 64 + ".example.com:PORT/",
    "http://" + "a." * 126 + "com:PORT/",
    "http://:PORT/",
    "http://?PORT",
    # ports
    "http://127.0.0.1:0/",
    "http://127.0.0.1:22/",
    "http://127.0.0.1:6379/",
    "http://hooks.example.com:0/",
    "http://hooks.example.com:22/",
    "http://hooks.example.com:25/",
    "http://hooks.example.com:6379/",
    "http://hooks.example.com:65536/",
    "http://hooks.example.com:-1/",
    "http://hooks.example.com:+PORT/",
    "http://hooks.example.com:0PORT/",
    "http://hooks.example.com:/",
    "http://hooks.example.com:PORT PORT/",
    "http://hooks.example.com:\uff18\uff14\uff14\uff13/",
    "http://hooks.example.com:1e3/",
    "http://hooks.example.com",
    # schemes
    "ftp://hooks.example.com:PORT/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:PORT/_",
    "unix:///run/docker.sock",
    "http+unix://%2Frun%2Fdocker.sock/",
    "ws://hooks.example.com:PORT/",
    "javascript:alert(1)",
    "data:text/plain,x",
    "http\u017f://127.0.0.1:PORT/",
    "http\uff1a//127.0.0.1:PORT/",
    "",
    "/",
    # too long
    "http://hooks.example.com:PORT/" + "a" * 2048,
    "http://hooks.example.com:PORT/" + "\u00e9" * 1000,
    "http://hooks.example.com:PORT/" + "a/../" * 500,
)
"""URLs that are no address in another spelling, but a trick on whoever reads them."""


def urls(port: int) -> list[str]:
    """Everything above as URLs with *port*."""
    plain = [f"http://{host}:{port}/hook" for host in HOSTS]
    return plain + [trick.replace("PORT", str(port)) for trick in TRICKS]
