"""What the reference library thinks of our signatures, and what we think of secrets."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from server.webhooks.signing import BadSecret, check_secret, new_secret, sign

OLD, NEW, OTHER = new_secret(), new_secret(), new_secret()
BODY = '{"type":"download.completed","data":{"name":"\u00e9\u4f8b"}}'.encode()


def test_the_reference_library_verifies_it() -> None:
    """With the secret that signed it, and with no other."""
    headers = sign([NEW], "msg_1", time.time(), BODY)
    Webhook(NEW).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(OTHER).verify(BODY, headers)


@pytest.mark.parametrize("secret", [OLD, NEW], ids=["old", "new"])
def test_while_secrets_change_both_verify(secret: str) -> None:
    """The receiver changes when it likes."""
    headers = sign([NEW, OLD], "msg_1", time.time(), BODY)
    assert len(headers["webhook-signature"].split(" ")) == 2
    Webhook(secret).verify(BODY, headers)


@pytest.mark.parametrize("what", ["webhook-id", "webhook-timestamp", "body"])
def test_whatever_is_changed_on_the_way_shows(what: str) -> None:
    """Id, time and body are signed."""
    headers = sign([NEW], "msg_1", time.time(), BODY)
    body = BODY
    if what == "body":
        body += b" "
    elif what == "webhook-id":
        headers[what] += "0"
    else:
        headers[what] = str(int(headers[what]) - 1)
    with pytest.raises(WebhookVerificationError, match="No matching signature"):
        Webhook(NEW).verify(body, headers)


def test_every_attempt_has_the_message_s_id_and_a_time_of_its_own() -> None:
    """A repetition is known by its id, an old recording by its time."""
    first, second = (sign([NEW], "msg_1", now, BODY) for now in (1_700_000_000.9, 1_700_000_005.0))
    assert first["webhook-id"] == second["webhook-id"] == "msg_1"
    assert (first["webhook-timestamp"], second["webhook-timestamp"]) == ("1700000000", "1700000005")
    assert first["webhook-signature"] != second["webhook-signature"]


def test_the_specification_s_own_example_comes_out() -> None:
    """The known answer of the specification's test vectors."""
    headers = sign(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        b'{"test": 2432232314}',
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def key(size: int) -> str:
    """A secret of *size* bytes."""
    return "whsec_" + base64.b64encode(b"k" * size).decode()


@given(st.binary(min_size=24, max_size=64))
def test_a_secret_is_read_as_it_was_made(raw: bytes) -> None:
    """For all lengths of the specification."""
    assert check_secret("whsec_" + base64.b64encode(raw).decode()) == raw


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", key(23), key(65), key(32)[6:], key(32)[:-1], key(32) + "\n", "whsec_" + "\u00e9" * 44,
     "whsec_" + "*" * 44, "whpk_" + key(32)[6:]],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_secret_is_refused_and_not_repeated(secret: str) -> None:
    """The reference library would sign with some of these."""
    with pytest.raises(BadSecret) as caught:
        sign([secret], "msg_1", 0.0, b"{}")
    assert len(secret) < 10 or secret not in str(caught.value)


@pytest.mark.parametrize(
    ("secrets", "message_id", "body"),
    [
        ([], "msg_1", b"{}"),
        ([NEW, OLD, OTHER], "msg_1", b"{}"),
        ([NEW], "", b"{}"),
        ([NEW], "a.1", b"{}"),
        ([NEW], "a\r\nb", b"{}"),
        ([NEW], "a\n", b"{}"),
        ([NEW], "\u00e9", b"{}"),
        ([NEW], "a" * 129, b"{}"),
        ([NEW], "msg_1", b"\xff"),
    ],
    ids=[
        "no secret",
        "three secrets",
        "no id",
        "full stop",
        "line",
        "line end",
        "letter",
        "long",
        "no UTF-8",
    ],
)
def test_what_could_be_read_in_two_ways_is_not_signed(
    secrets: list[str], message_id: str, body: bytes
) -> None:
    """A full stop in an id would move the border between id and time."""
    with pytest.raises(ValueError, match=r"signed with|message id|utf-8"):
        sign(secrets, message_id, 0.0, body)


def test_no_two_secrets_are_the_same() -> None:
    """They are 32 bytes of the system's luck."""
    assert len({new_secret() for _ in range(100)}) == 100
    assert len(check_secret(new_secret())) == 32
