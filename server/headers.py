"""The headers that every response carries, whoever made it: security, CORS, and no version of anything."""

from __future__ import annotations

from aiohttp import web
from multidict import CIMultiDict

SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Strict-Transport-Security": "max-age=15552000; includeSubDomains",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Server": "Hedgerow",
}
EXPOSED = (
    "X-Request-Id, RateLimit-Policy, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, "
    "Location, Preference-Applied, Server-Timing, traceparent"
)
ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
ALLOWED_HEADERS = (
    "Content-Type, Accept, Authorization, Idempotency-Key, Last-Event-ID, Prefer, X-Request-Id, traceparent, "
    "tracestate"
)


class Decorator:
    """
    Puts the common headers on a response.

    The CORS answer is present without an ``Origin`` too, because clients of the contract look for it there.
    With a list of origins the one that asks is named if it is on the list, else the first of the list.

    Attributes:
        common: the headers that are the same for every response.
        same_for_all: whether there are no others but the request's id.
    """

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._origins = origins
        self.common = CIMultiDict(SECURITY)
        self.common["Access-Control-Expose-Headers"] = EXPOSED
        self.same_for_all = "*" in origins
        self.common["Access-Control-Allow-Origin"] = "*" if self.same_for_all else origins[0]
        if not self.same_for_all:
            self.common["Vary"] = "Origin"

    def __call__(self, response: web.StreamResponse, request_id: str, origin: str | None) -> None:
        """Decorate *response*, which answers the request *request_id* from a page of *origin*."""
        headers = response.headers
        headers.update(self.common)
        headers["X-Request-Id"] = request_id
        if origin in self._origins:
            headers["Access-Control-Allow-Origin"] = origin


def is_preflight(request: web.Request) -> bool:
    """Whether a browser asks, before the request itself, what it may send."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def preflight() -> web.Response:
    """What every preflight is told; whether the path exists shows in the request itself."""
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": ALLOWED_METHODS,
            "Access-Control-Allow-Headers": ALLOWED_HEADERS,
            "Access-Control-Max-Age": "600",
        },
    )
