"""Which URLs may be registered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webhooks.forms import HOSTS, SPELLINGS, TRICKS, urls
from tests.webhooks.network import guard_for
from upstream.callback_url import check_url
from upstream.guard import DENIED, Denied, Guard, Policy

PORT = 8443
LISTED = urls(PORT)
GUARD = Guard(Policy())


def denial(text: str, guard: Guard) -> str | None:
    """What is said against it."""
    try:
        check_url(text, guard)
    except Denied as error:
        return str(error)
    return None


def test_the_list_is_long_and_nothing_stands_in_it_twice() -> None:
    """The floor is 150 addresses and forms."""
    assert len(set(HOSTS)) > 600
    assert len(set(TRICKS)) == len(TRICKS) >= 100


@pytest.mark.parametrize("text", TRICKS, ids=lambda text: ascii(text)[:60])
@pytest.mark.fault(98)
def test_no_trick_is_registered(text: str) -> None:
    """Even where http and the port are allowed."""
    assert denial(text.replace("PORT", str(PORT)), guard_for(PORT)) == DENIED


@pytest.mark.fault(98)
def test_no_spelling_of_a_private_address_is_registered() -> None:
    """Every one of them, with the same words."""
    guard = guard_for(PORT)
    assert {text: denial(text, guard) for text in LISTED} == dict.fromkeys(LISTED, DENIED)


def test_a_public_address_is_registered_in_plain_letters_alone() -> None:
    """Mapped ones are read alike by everybody; no other spelling is."""
    taken = [name for name, spell in SPELLINGS.items() if not denial(f"https://{spell('8.8.8.8')}/", GUARD)]
    assert taken == ["dotted", "mapped", "mapped in hex", "mapped in full"]


def test_without_leave_http_is_not_taken() -> None:
    """Only https is."""
    assert denial("http://hooks.example.com:443/", GUARD) == DENIED
    assert denial("https://hooks.example.com/", GUARD) is None


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://hooks.example.com", "https://hooks.example.com"),
        ("HTTPS://Hooks.Example.COM/A?b=C", "https://hooks.example.com/A?b=C"),
        ("https://hooks.example.com:8443/a/b", "https://hooks.example.com:8443/a/b"),
        ("https://hooks.example.com:443/", "https://hooks.example.com/"),
        ("https://8.8.8.8/x", "https://8.8.8.8/x"),
        ("https://[2606:4700::1111]:8443/", "https://[2606:4700::1111]:8443/"),
        ("https://b\u00fccher.example/", "https://xn--bcher-kva.example/"),
        ("https://\u4f8b\u3048.\u30c6\u30b9\u30c8/", "https://xn--r8jz45g.xn--zckzah/"),
        ("https://hooks.example.com/\u00e9", "https://hooks.example.com/%C3%A9"),
        ("https://hooks.example.com/a@b?to=c:d@e", "https://hooks.example.com/a@b?to=c:d@e"),
        ("https://1password.example.com/", "https://1password.example.com/"),
        ("https://3com.1a/", "https://3com.1a/"),
    ],
)
def test_an_honest_url_is_taken(text: str, url: str) -> None:
    """In the letters of DNS and HTTP."""
    assert str(check_url(text, GUARD)) == url


def test_an_operator_can_take_inner_names() -> None:
    """For receivers in the same private network."""
    guard = Guard(Policy(http=True, ports=frozenset({8080}), inner_names=True))
    assert check_url("http://receiver:8080/hook", guard).host == "receiver"


@given(
    st.one_of(
        st.text(max_size=60),
        st.text(
            alphabet="htps:/@[]#?\\%.0123456789abcfxX\u3002\uff0e\uff11\u2460 \t\u00e9-_", max_size=60
        ).map("https://".__add__),
    )
)
def test_no_text_breaks_the_check(text: str) -> None:
    """It is denied, or it is a URL that passes again as it is, over https and to an allowed port."""
    try:
        url = check_url(text, GUARD)
    except Denied:
        return
    assert (url.scheme, url.port in {443, 8443}, url.user) == ("https", True, None)
    assert check_url(str(url), GUARD) == url
