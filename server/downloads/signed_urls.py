"""Signed addresses that expire, for objects that we serve ourselves. What S3 calls a presigned URL.

A signature covers the key, the end of its life and the file's name, so none of them can be changed. It
knows no HTTP and no files but the one with its secret.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from urllib.parse import urlencode

from server.downloads.objects import Key, link_seconds
from strategies import value

SECRET_BYTES = 32


@value
class Granted:
    """The address is one of ours and alive; the file is to be saved as *filename*."""

    filename: str


class Denied(Enum):
    """Why an address gives nothing."""

    FORGED = "forged"
    EXPIRED = "expired"


class UrlSigner:
    """
    Args:
        secret: what the signatures are made with; the same in every process that serves the objects.
        clock: seconds since 1970. Addresses outlive a process, so no other clock will do.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float]) -> None:
        if len(secret) < SECRET_BYTES:
            raise ValueError(f"the secret has to have {SECRET_BYTES} bytes at least")
        self._secret = secret
        self._clock = clock

    def query(self, key: Key, expires_in: float, filename: str) -> str:
        """The query string of an address that lives *expires_in* seconds. Raises ValueError for odd ones."""
        expires = str(int(self._clock()) + link_seconds(expires_in))
        name = filename.encode("utf-8", "replace").decode()
        return urlencode({"expires": expires, "filename": name, "signature": self._sign(key, expires, name)})

    def read(self, key: Key, expires: str, filename: str, signature: str) -> Granted | Denied:
        """What the parts of an address's query come to."""
        if not hmac.compare_digest(_bytes(signature), self._sign(key, expires, filename).encode()):
            return Denied.FORGED
        return Granted(filename) if self._clock() < int(expires) else Denied.EXPIRED

    def _sign(self, key: Key, expires: str, filename: str) -> str:
        """The name is last: it alone may hold a line break, so no two triples make one text."""
        text = _bytes("\n".join((expires, key, filename)))
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    """Never fails, whatever a stranger put into a query."""
    return text.encode("utf-8", "surrogatepass")


def load_secret(path: Path) -> bytes:
    """
    The secret in the file *path*, which is made if it is missing; of several processes that make it at once,
    one wins. Nobody but its owner can read it.

    Raises:
        OSError: it can neither be read nor made.
        ValueError: it is too short to be one.
    """
    if not path.exists():
        _make_secret(path)
    with path.open("rb") as file:
        os.fchmod(file.fileno(), 0o600)
        secret = file.read()
    if len(secret) < SECRET_BYTES:
        raise ValueError(f"{path} holds no secret; remove it, and a new one is made")
    return secret


def _make_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        os.link(mine, path)
    except FileExistsError:
        pass  # another process was first; its secret is as good
    finally:
        mine.unlink(missing_ok=True)
