"""Which addresses may be connected to."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from tests.webhooks.forms import V4, V6
from tests.webhooks.network import guard_for, networks
from upstream.guard import DENIED, NOT_PUBLIC, Address, Denied, Guard, Policy, layers
from upstream.own_addresses import listening, of_this_machine

PUBLIC = (
    *("8.8.8.8", "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.1", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"),
)
"""Among them the neighbours of every range that is not."""


def denial(guard: Guard, address: str, port: int = 443) -> Denied | None:
    """What *guard* says against it."""
    try:
        guard.check(ip_address(address), port)
    except Denied as error:
        return error
    return None


@pytest.mark.parametrize("address", [*V4, *V6])
def test_no_address_that_is_not_public_may_be_called(address: str) -> None:
    """In all ranges, with one text."""
    assert str(denial(Guard(Policy()), address)) == DENIED


@pytest.mark.parametrize("address", V4)
@pytest.mark.parametrize("wrap", ["::ffff:{}", "64:ff9b::{}"])
def test_an_address_inside_another_one_is_found(address: str, wrap: str) -> None:
    """Also by an operator's leave for the wrapping, not for what is in it."""
    guard = guard_for(443, allowed=["64:ff9b::/96"])
    assert denial(guard, wrap.format(address)) is not None
    assert denial(guard, wrap.format("8.8.8.8")) is None


@pytest.mark.parametrize("network", NOT_PUBLIC, ids=str)
def test_a_denied_range_is_denied_from_end_to_end(network: object) -> None:
    """First and last address."""
    guard = Guard(Policy())
    for address in (network[0], network[-1]):  # type: ignore[index]
        assert denial(guard, str(address)) is not None


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_may_be_called(address: str) -> None:
    """Or the guard would be a wall."""
    assert denial(Guard(Policy()), address) is None


@pytest.mark.parametrize("port", [0, 22, 25, 80, 6379, 8000, 65535])
def test_only_the_ports_of_the_policy_may_be_called(port: int) -> None:
    """Everywhere."""
    assert str(denial(Guard(Policy()), "8.8.8.8", port)) == DENIED


def test_an_operator_denies_more() -> None:
    """Also what is allowed."""
    policy = Policy(allowed=networks("10.0.0.0/8"), denied=networks("8.8.8.0/24", "10.1.0.0/16"))
    guard = Guard(policy)
    assert denial(guard, "8.8.8.8") is not None
    assert denial(guard, "10.1.0.1") is not None
    assert denial(guard, "10.2.0.1") is None


@pytest.mark.parametrize("text", ["", "127.1", "0127.0.0.1", "localhost", "8.8.8.8 ", "::1::", "[::1]"])
def test_what_cannot_be_read_is_denied(text: str) -> None:
    """A resolver that says such a thing gets no connection."""
    with pytest.raises(Denied):
        Guard(Policy()).check_text(text, 443)


@pytest.mark.parametrize("address", ["fe80::1%lo", "2606:4700::1111%lo", "::ffff:127.0.0.1%lo"])
def test_an_address_with_a_zone_is_denied(address: str) -> None:
    """It names one of our own interfaces."""
    with pytest.raises(Denied):
        Guard(Policy()).check_text(address, 443)


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("8.8.8.8", ["8.8.8.8"]),
        ("::ffff:10.0.0.1", ["10.0.0.1"]),
        ("64:ff9b::10.0.0.1", ["64:ff9b::a00:1", "10.0.0.1"]),
        ("2002:a00:1::5", ["2002:a00:1::5", "10.0.0.1"]),
        ("2001:0:a00:1::f5ff:fffe", ["2001:0:a00:1::f5ff:fffe", "10.0.0.1", "10.0.0.1"]),
    ],
)
def test_what_an_address_contains(address: str, inside: list[str]) -> None:
    """A Teredo address has its server's and its client's."""
    assert [str(one) for one in layers(ip_address(address))] == inside


class TestOwnAddresses:
    """The server does not call itself."""

    HERE: Address = ip_address("127.0.0.1")

    @pytest.mark.parametrize("listens", ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
    @pytest.mark.parametrize("called", ["127.0.0.1", "::ffff:127.0.0.1"])
    def test_where_it_listens_it_is_not_called(self, listens: str, called: str) -> None:
        """Also where the address itself is allowed; at another port somebody else may live."""
        guard = guard_for(8443, 9443, allowed=["127.0.0.0/8"], is_own=listening([(listens, 8443)]))
        assert str(denial(guard, called, 8443)) == DENIED
        assert denial(guard, called, 9443) is None

    def test_another_machine_at_the_same_port_is_not_this_one(self) -> None:
        """Listening everywhere here is not listening there."""
        guard = guard_for(8443, is_own=listening([("0.0.0.0", 8443)]))
        assert denial(guard, "8.8.8.8", 8443) is None

    def test_the_kernel_tells_which_addresses_are_ours(self) -> None:
        """Without a packet."""
        assert of_this_machine(self.HERE)
        assert not of_this_machine(ip_address("8.8.8.8"))

    def test_in_doubt_an_address_is_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a descriptor there is no way to tell."""

        def no_more(*_: object) -> None:
            raise OSError(24, "Too many open files")

        monkeypatch.setattr(socket, "socket", no_more)
        assert of_this_machine(ip_address("8.8.8.8"))
