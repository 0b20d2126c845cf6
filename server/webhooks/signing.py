"""The headers that make a webhook verifiable: id, time of the attempt, signatures.

The signature is the reference library's. What is ours is to be strict about secrets and ids, which it is
not, and to sign with two secrets while one takes over from the other.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

PREFIX = "whsec_"
SIZES = range(24, 65)
"""Bytes that a secret may have."""
AT_ONCE = 2
"""Secrets that may be in use at a time: the new one, and the old one until its receivers have changed."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
"""Without a full stop: it separates the parts of what is signed."""


class BadSecret(ValueError):
    """A secret that is not ``whsec_`` and the base64 of 24 to 64 bytes. The text does not repeat it."""


def new_secret(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A secret for one receiver, as it is shown to its owner."""
    return PREFIX + base64.b64encode(random_bytes(32)).decode("ascii")


def check_secret(secret: str) -> bytes:
    """
    The key that *secret* stands for.

    Raises:
        BadSecret: if it is none.
    """
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or len(key) not in SIZES:
        raise BadSecret(f"a secret is {PREFIX} and the base64 of {SIZES[0]} to {SIZES[-1]} bytes")
    return key


def sign(secrets: Sequence[str], message_id: str, now: float, body: bytes) -> dict[str, str]:
    """
    The headers of one attempt to send *body*.

    Args:
        secrets: one, or two while they change, the new one first.
        message_id: the same for every attempt; letters, digits, ``_`` and ``-``.
        now: seconds since the epoch; the time of this attempt.
        body: UTF-8.

    Raises:
        BadSecret: for a secret that is none.
        ValueError: for another number of secrets, an id of other characters, a body that is not UTF-8.
    """
    if not 1 <= len(secrets) <= AT_ONCE:
        raise ValueError(f"signed with 1 to {AT_ONCE} secrets, not {len(secrets)}")
    if not _ID.fullmatch(message_id):
        raise ValueError("a message id is 1 to 128 letters, digits, _ and -")
    stamp, text = int(now), body.decode("utf-8")
    # Only UTC will do: the library reads the clock's face and takes no notice of the zone.
    at = datetime.fromtimestamp(stamp, UTC)
    signatures = [Webhook(check_secret(secret)).sign(message_id, at, text) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": " ".join(signatures),
    }
