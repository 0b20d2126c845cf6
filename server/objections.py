"""What is said against a request before anybody looks at its path: forms and promises not served here.

aiohttp serves HTTP/0.9 and the request line of HTTP/2, takes the host from an absolute target, and whatever
stands in ``Host``, echoes an expectation that it does not know, and without its C parser reads
``chunked, chunked``. A body is only
promised at this point; refused now, it need not be read.
"""

from __future__ import annotations

import re

from aiohttp import HttpVersion10, HttpVersion11, web

from server.errors import Problem

VERSIONS = (HttpVersion11, HttpVersion10)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{0,253})(:[0-9]{0,5})?")
"""RFC 9112, section 3.2, and of RFC 3986 what names a host: links to ourselves begin with it."""


def objection(request: web.BaseRequest) -> Problem | None:
    """The problem with *request*, if it has one; nothing of its body has been read."""
    if request.version not in VERSIONS:
        return Problem(505, "version_not_supported", "The versions served are HTTP/1.1 and HTTP/1.0.")
    target = request.raw_path
    if not target.startswith("/") and not (target == "*" and request.method == "OPTIONS"):
        return Problem(400, "bad_target", "The target of a request must be a path that begins with '/'.")
    headers = request.headers
    if not _HOST.fullmatch(headers.get("Host", "")):
        detail = "Host must be a name or an address in ASCII, with a port or without one."
        return Problem(400, "bad_request", detail)
    if "Expect" in headers and headers["Expect"].lower() != "100-continue":
        return Problem(417, "expectation_failed", "The only expectation understood is 100-continue.")
    return _body_objection(request) if request.body_exists else None


def _body_objection(request: web.BaseRequest) -> Problem | None:
    if request.headers.get("Transfer-Encoding", "chunked").lower() != "chunked":
        return Problem(400, "bad_request", "The only transfer coding understood is chunked, once.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return Problem(415, "unsupported_media_type", "A body must come as it is, without Content-Encoding.")
    if (request.content_length or 0) > request.client_max_size:
        return Problem(413, "too_large", "The body is larger than this server takes.")
    return None
