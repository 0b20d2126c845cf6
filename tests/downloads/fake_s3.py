"""An S3 server that fails as a test wants it to, and remembers what it was asked. It knows no more of S3."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from aiohttp import web

from server.downloads.s3_objects import PART

Reaction: TypeAlias = Callable[["Asked"], Awaitable[web.StreamResponse | None]]

BEGUN = "<InitiateMultipartUploadResult><UploadId>upload-1</UploadId></InitiateMultipartUploadResult>"
ENDED = "<CompleteMultipartUploadResult><ETag>whole</ETag></CompleteMultipartUploadResult>"


@dataclass
class Asked:
    """One request, in the words of S3: ``begin``, ``part``, ``complete``, ``abort``, or the HTTP method."""

    what: str
    request: web.Request
    body: bytes = field(repr=False)


def failure(status: int, code: str) -> web.Response:
    """How S3 tells an error; its words name what is none of a caller's business."""
    text = f"<Error><Code>{code}</Code><Message>bucket downloads of internal-host</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


class FakeS3:
    """
    Attributes:
        asked: every request so far.
        reactions: by the word for a request, what becomes of it; one that returns None lets it succeed.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.reactions: dict[str, Reaction] = {}
        self._came = asyncio.Event()
        self.app = web.Application(client_max_size=2 * PART)
        self.app.router.add_route("*", "/{path:.*}", self._answer)

    def words(self) -> list[str]:
        """What it was asked, in order."""
        return [one.what for one in self.asked]

    async def was_asked(self, what: str) -> None:
        """Wait until it has been."""
        while what not in self.words():
            self._came.clear()
            await self._came.wait()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(_word(request), request, await request.read())
        self.asked.append(asked)
        self._came.set()
        reaction = self.reactions.get(asked.what)
        answer = await reaction(asked) if reaction else None
        if answer is not None:
            return answer
        text = {"begin": BEGUN, "complete": ENDED}.get(asked.what, "")
        status = 204 if asked.what == "abort" else 200
        return web.Response(
            status=status, text=text, headers={"ETag": '"etag"'}, content_type="application/xml"
        )


def _word(request: web.Request) -> str:
    query = request.query
    if "uploads" in query:
        return "begin" if request.method == "POST" else "list"
    if "uploadId" in query:
        return {"PUT": "part", "POST": "complete", "DELETE": "abort"}[request.method]
    return request.method


async def hang(asked: Asked) -> None:
    """Never answer."""
    await asyncio.Event().wait()
