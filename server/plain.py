"""The answer that nearly every caller gets, a 200 with JSON, with its head written in one piece.

aiohttp builds a head anew each time: a multidict, a signal, a writer that joins it all. Of the head
of a successful answer only the length, the date and the request's id ever change, so the rest is rendered
once. Anything else (errors, HEAD, HTTP/1.0, CORS for a list of origins) takes aiohttp's way; a test holds the
two to the same head.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import cast

from aiohttp import web

from server.headers import Decorator


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    """The ``Date`` of a whole second of wall-clock time."""
    return formatdate(second, usegmt=True).encode("ascii")


class PlainAnswer:
    """
    What aiohttp's connection handler asks of a response, and no more.
    """

    __slots__ = ("_body", "_head", "_id", "keep_alive", "status")

    def __init__(self, head: bytes, request_id: str, body: bytes) -> None:
        self._head = head
        self._id = request_id
        self._body = body
        self.status = 200
        self.keep_alive: bool | None = None

    def force_close(self) -> None:
        """Close the connection after this answer."""
        self.keep_alive = False

    async def prepare(self, request: web.Request) -> None:
        """Write it, whole."""
        if self.keep_alive is None:
            self.keep_alive = request.keep_alive
        if request.transport is None:
            raise ConnectionResetError("the caller has gone")
        connection = b"" if self.keep_alive else b"Connection: close\r\n"
        request.transport.write(
            b"%bContent-Length: %d\r\nDate: %b\r\n%bX-Request-Id: %b\r\n\r\n%b"
            % (
                self._head,
                len(self._body),
                _date(int(time.time())),
                connection,
                self._id.encode("ascii"),
                self._body,
            )
        )

    async def write_eof(self) -> None:
        """Nothing is left to write."""


class PlainAnswers:
    """
    Makes `PlainAnswer`s with the common headers of *decorator*.
    """

    def __init__(self, decorator: Decorator) -> None:
        fields = "".join(f"{name}: {text}\r\n" for name, text in decorator.common.items())
        self._head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}".encode("latin-1")
        self._same_for_all = decorator.same_for_all

    def json(self, request: web.Request, request_id: str, body: bytes) -> web.StreamResponse:
        """A 200 with *body*, by the short way if *request* is a plain one."""
        if self._same_for_all and request.method == "GET" and request.version == (1, 1):
            return cast(web.StreamResponse, PlainAnswer(self._head, request_id, body))
        return web.Response(body=body, content_type="application/json")
