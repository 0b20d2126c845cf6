"""Whole answers as bytes, head and all: a success with JSON, and a problem, for whoever writes them itself.

aiohttp builds a head anew each time: a multidict, a signal, a writer that joins it all. Of the head of an
answer only the length, the date and the request's id ever change, so the rest is rendered once. A test holds
these to the heads that aiohttp makes.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

from aiohttp import web

from server.errors import MEDIA_TYPE, Problem, document
from server.headers import Decorator


@lru_cache(maxsize=2)
def date(second: int) -> bytes:
    """The ``Date`` of a whole second of wall-clock time."""
    return formatdate(second, usegmt=True).encode("ascii")


class PlainAnswers:
    """
    Makes answers with the common headers of *decorator*.

    Attributes:
        fit: whether the headers are the same for every caller; otherwise aiohttp has to answer.
    """

    def __init__(self, decorator: Decorator) -> None:
        self._common = "".join(f"{name}: {text}\r\n" for name, text in decorator.common.items())
        self._heads: dict[int, bytes] = {}
        self._success = self._head(200, "application/json")
        self.fit = decorator.same_for_all

    def success(self, request_id: str, body: bytes, last: bool) -> bytes:
        """A 200 with *body*; if it is the *last* answer on its connection, it says so."""
        return _whole(self._success, b"", request_id, body, last)

    def problem(self, problem: Problem, request_id: str, path: str, last: bool) -> bytes:
        """The document of *problem*, with its headers."""
        head = self._heads.get(problem.status)
        if head is None:
            head = self._heads[problem.status] = self._head(problem.status, MEDIA_TYPE)
        more = "".join(f"{name}: {text}\r\n" for name, text in problem.headers.items()).encode("latin-1")
        return _whole(head, more, request_id, document(problem, request_id, path), last)

    def _head(self, status: int, media_type: str) -> bytes:
        first = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: {media_type}\r\n"
        return (first + self._common).encode("latin-1")


def _whole(head: bytes, more: bytes, request_id: str, body: bytes, last: bool) -> bytes:
    return b"%b%bContent-Length: %d\r\nDate: %b\r\n%bX-Request-Id: %b\r\n\r\n%b" % (
        head,
        more,
        len(body),
        date(int(time.time())),
        b"Connection: close\r\n" if last else b"",
        request_id.encode("ascii"),
        body,
    )


class LastWord:
    """
    What ends a connection, in HTTP/1.1 whatever version was spoken: bytes, with the few members that
    aiohttp's connection handler asks of a response.
    """

    keep_alive = False

    def __init__(self, response: web.Response) -> None:
        body = response.body
        assert isinstance(body, bytes)  # noqa: S101 - `respond` makes it so
        lines = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}"]
        lines += [f"{name}: {text}" for name, text in response.headers.items()]
        lines += [f"Content-Length: {len(body)}", f"Date: {date(int(time.time())).decode()}"]
        lines += ["Connection: close"]
        self.bytes = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        self.status = response.status

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write it, whole."""
        if request.transport is None:
            raise ConnectionResetError("the caller has gone")
        request.transport.write(self.bytes)

    async def write_eof(self) -> None:
        """Nothing is left to write."""
