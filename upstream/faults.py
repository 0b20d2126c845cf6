"""The one table from aiohttp's exceptions to our reasons. No other room knows an exception of aiohttp's."""

from __future__ import annotations

import ssl

import aiohttp
from aiohttp import http_exceptions


class TooLarge(Exception):
    """The body is larger than the upstream's ``max_body``."""


# Read from the top, the first that fits: aiohttp's classes overlap (a certificate error is also a connector
# error, a DNS error too).
_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (TooLarge, "too_large"),
    (aiohttp.ClientConnectorDNSError, "dns_error"),
    ((aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError, ssl.SSLError), "tls_error"),
    (aiohttp.ClientConnectorError, "connect_error"),
    ((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError), "reset"),
    (aiohttp.ClientResponseError, "protocol_error"),
    (aiohttp.ClientPayloadError, "protocol_error"),
    (aiohttp.ClientError, "protocol_error"),
    (OSError, "reset"),
)

FAULTS = (TooLarge, aiohttp.ClientError, OSError)
"""What an upstream can do to us. Everything else that is raised is a bug."""


def reason_of(error: BaseException) -> str:
    """
    The reason of a `strategies.Failed`: ``dns_error``, ``tls_error``, ``connect_error``, ``reset``,
    ``protocol_error`` or ``too_large``.
    """
    if isinstance(error, aiohttp.ClientPayloadError) and not isinstance(
        error.__cause__, http_exceptions.BadHttpMessage
    ):
        return "reset"  # the body stopped short; a malformed one has the parser's error as its cause
    return next(reason for kinds, reason in _REASONS if isinstance(error, kinds))


def detail_of(error: BaseException) -> str:
    """The error in words, on one line, short enough for a log and free of addresses of objects."""
    text = str(error).partition("\n")[0] or type(error).__name__
    return text[:200]
