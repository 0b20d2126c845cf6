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
    ((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionError), "reset"),
    (aiohttp.ClientResponseError, "protocol_error"),
    (aiohttp.ClientPayloadError, "protocol_error"),
    ((aiohttp.ClientError, http_exceptions.HttpProcessingError), "protocol_error"),
    (OSError, "reset"),
)

FAULTS = (TooLarge, aiohttp.ClientError, http_exceptions.HttpProcessingError, OSError)
"""What an upstream can do to us. Everything else that is raised is a bug."""


def reason_of(error: BaseException) -> str:
    """
    The reason of a `strategies.Failed`: ``dns_error``, ``tls_error``, ``connect_error``, ``reset``,
    ``protocol_error`` or ``too_large``.
    """
    if isinstance(error, aiohttp.ClientPayloadError) and _stopped_short(error):
        return "reset"
    return next(reason for kinds, reason in _REASONS if isinstance(error, kinds))


def _stopped_short(error: aiohttp.ClientPayloadError) -> bool:
    """Whether the connection ended before the body did; if not, the body is malformed."""
    return error.__cause__ is None or str(error).startswith("Response payload is not completed")


def detail_of(error: BaseException) -> str:
    """The error in words, on one line, short enough for a log and free of what the upstream sent."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        text = "the upstream hung up before it had answered"
    elif isinstance(error, aiohttp.ClientPayloadError) and isinstance(
        error.__cause__, http_exceptions.HttpProcessingError
    ):
        text = error.__cause__.message
    elif isinstance(error, (aiohttp.ClientResponseError, http_exceptions.HttpProcessingError)):
        text = error.message
    else:
        text = str(error)
    return " ".join(text.split())[:200] or type(error).__name__
