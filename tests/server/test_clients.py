"""Who a client is: which address of those that are claimed is believed, and what it is called."""

from __future__ import annotations

import ipaddress
import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.clients import MOST_HOPS, NO_ADDRESS, Clients, parse_networks

NOBODY = Clients(())
BEHIND = Clients(parse_networks("10.0.0.0/8, 192.0.2.7, fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("64:ff9b::203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", NO_ADDRESS),
        (None, NO_ADDRESS),
        ("/run/hedgerow.sock", NO_ADDRESS),
    ],
)
def test_a_peer_is_named_by_its_network_address(peer: str | None, name: str) -> None:
    assert NOBODY.client_of(peer, ()) == name


def test_the_addresses_of_one_ipv6_network_are_one_client_and_the_next_network_is_another() -> None:
    rng = random.Random(5)
    prefix = int(ipaddress.IPv6Address("2001:db8:1:2::"))
    same = {str(ipaddress.IPv6Address(prefix | rng.getrandbits(64))) for _ in range(1000)}
    assert len(same) == 1000
    assert {NOBODY.client_of(peer, ()) for peer in same} == {"2001:db8:1:2::/64"}
    assert NOBODY.client_of("2001:db8:1:3::1", ()) == "2001:db8:1:3::/64"


@pytest.mark.parametrize(
    "peer", ["203.0.113.9", "192.0.2.8", "11.0.0.1", "2001:db8::1", "", "::ffff:9.9.9.9"]
)
@pytest.mark.fault(33)
def test_who_is_not_a_trusted_proxy_cannot_say_for_whom_it_comes(peer: str) -> None:
    told = ["198.51.100.1", "198.51.100.2, 10.0.0.1"]
    assert BEHIND.client_of(peer, told) == BEHIND.client_of(peer, ())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (["198.51.100.1"], "198.51.100.1"),
        (["1.1.1.1, 198.51.100.1"], "198.51.100.1"),  # the rest is what the client sent itself
        (["1.1.1.1", "198.51.100.1"], "198.51.100.1"),  # several fields are one list
        (["198.51.100.1", "10.1.1.1"], "198.51.100.1"),
        (["1.1.1.1,198.51.100.1,192.0.2.7 ,\t10.1.1.1"], "198.51.100.1"),
        (["1.1.1.1, ::ffff:10.2.3.4"], "1.1.1.1"),
        (["2001:db8:1:2::77, fd00::9"], "2001:db8:1:2::/64"),
        (["198.51.100.1:5678"], "198.51.100.1"),
        (["[2001:db8:1:2::77]:5678"], "2001:db8:1:2::/64"),
        (["[2001:db8:1:2::77]"], "2001:db8:1:2::/64"),
        (["198.51.100.1, [fd00::9%eth0]:1"], "198.51.100.1"),
        (["10.5.5.5"], "10.5.5.5"),  # all are trusted: the farthest
        (["10.6.6.6, 10.5.5.5"], "10.6.6.6"),
    ],
)
def test_behind_a_trusted_proxy_it_is_the_rightmost_hop_that_is_not_trusted(
    fields: list[str], name: str
) -> None:
    assert BEHIND.client_of("10.0.0.1", fields) == name


@pytest.mark.parametrize(
    "junk",
    [
        *(
            "",
            " ",
            "unknown",
            "_hidden",
            "localhost",
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "010.1.1.1",
            "1",
            "0x7f",
        ),
        *("1.2.3.4:", "1.2.3.4:abc", "1.2.3.4:123456", "1.2.3.4%0", "[::1", "::1]", "[]", "[]:80", "[::1]80"),
        *(
            "2001:db8::1::2",
            "1.2.3.4 5.6.7.8",
            "\uff11.2.3.4",
            "\u0661.2.3.4",
            "\udc80",
            "1.2.3.4;",
            '"1.2.3.4"',
        ),
        *("for=1.2.3.4", "9" * 4000, ":" * 4000, "[" * 4000, "1.2.3.4/32", "2001:db8::/64", "unix"),
    ],
)
def test_before_a_hop_that_is_no_address_the_last_good_one_counts(junk: str) -> None:
    assert BEHIND.client_of("10.0.0.1", [f"1.1.1.1, {junk}"]) == "10.0.0.1"
    assert BEHIND.client_of("10.0.0.1", [f"1.1.1.1, {junk}, 10.7.7.7"]) == "10.7.7.7"
    assert BEHIND.client_of("10.0.0.1", [f"{junk}, 198.51.100.1, 10.7.7.7"]) == "198.51.100.1"


def test_a_chain_is_followed_for_so_many_hops_only() -> None:
    chain = ["198.51.100.1", *(f"10.0.0.{number}" for number in range(MOST_HOPS))]
    assert BEHIND.client_of("10.0.0.1", [",".join(chain)]) == "10.0.0.0"
    assert BEHIND.client_of("10.0.0.1", [",".join(chain[:1] + chain[2:])]) == "198.51.100.1"


def test_an_endless_header_costs_next_to_nothing() -> None:
    began = time.process_time()
    for text in ("," * 8000, "10.0.0.1," * 900, "[" * 8000):
        for _ in range(100):
            BEHIND.client_of("10.0.0.1", [text] * 8)
    assert (time.process_time() - began) / 300 < 0.002


ADDRESSES = st.ip_addresses().map(str)
HOPS = st.one_of(st.text(max_size=60), ADDRESSES, ADDRESSES.map(lambda text: f"[{text}]:80"))
FIELDS = st.lists(st.lists(HOPS, max_size=6).map(",".join), max_size=4)


@given(st.one_of(st.none(), HOPS), FIELDS)
def test_whatever_is_sent_a_name_is_an_address_of_bounded_length(peer: str | None, fields: list[str]) -> None:
    for clients in (NOBODY, BEHIND, Clients(parse_networks("0.0.0.0/0,::/0"))):
        name = clients.client_of(peer, fields)
        if name != NO_ADDRESS:
            network = ipaddress.ip_network(name)
            assert name == (str(network) if network.version == 6 else str(network.network_address))
            assert network.prefixlen == (64 if network.version == 6 else 32)


@given(st.ip_addresses(v=4, network="198.51.100.0/24").map(str), FIELDS)
def test_what_a_client_claims_behind_a_proxy_changes_nothing(client: str, claimed: list[str]) -> None:
    assert BEHIND.client_of("10.0.0.1", [*claimed, client]) == client
    joined = ", ".join([*claimed, client])  # as a proxy that appends to the field
    assert BEHIND.client_of("10.0.0.1", [joined]) == client


def test_networks_are_read_from_a_list() -> None:
    assert [str(network) for network in parse_networks(" 10.0.0.0/8,192.0.2.7, ,fd00::/8,::1 ")] == [
        "10.0.0.0/8",
        "192.0.2.7/32",
        "fd00::/8",
        "::1/128",
    ]
    assert parse_networks("") == ()


@pytest.mark.parametrize(
    "entry", ["proxy.internal", "10.0.0.1/8", "10.0.0.0/33", "::ffff:10.0.0.1", "10.0.0", "*", "a" * 9000]
)
def test_what_is_no_network_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=re.escape(entry[:59])) as raised:
        parse_networks(f"192.0.2.1, {entry}")
    assert len(str(raised.value)) < 120
