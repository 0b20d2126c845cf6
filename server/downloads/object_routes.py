"""The objects of the local store over HTTP: signed addresses in, bytes out, in parts if asked.

It believes nothing in an address but its signature. aiohttp's own `FileResponse` is not used: it gives a
part to who has the rest of another version (``If-Range`` with an ``ETag``), and 416 for ranges that it
merely does not understand.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from aiohttp import web
from marshmallow import Schema
from marshmallow import fields as f
from multidict import MultiMapping

from server.asking import exchange_for
from server.downloads.local_objects import PATH, LocalObjects, Reader
from server.downloads.objects import (
    CONTENT_TYPE,
    PREFIX,
    Key,
    ObjectInfo,
    StoreError,
    StoreUnavailable,
    disposition,
    object_key,
)
from server.downloads.ranges import Span, span, validators
from server.downloads.signed_urls import Denied, UrlSigner
from server.errors import Problem
from server.openapi import Reply, document, header, problem

log = logging.getLogger("hedgerow.downloads")

BLOCK = 256 * 1024
"""Bytes that are read, and then written, at once."""
STALL = 60.0
"""Seconds in which a client has to take a block; one that has died would hold the file for ever."""
BYTES = {"type": "string", "format": "binary"}
VALIDATORS = ("ETag", "Last-Modified")
_ID = re.compile(r"[1-9][0-9]{4,8}")


class LinkSchema(Schema):
    """The query of a link. It is opaque to clients."""

    expires = f.String(required=True)
    filename = f.String(required=True)
    signature = f.String(required=True)


class LinkHeadersSchema(Schema):
    """The headers by which a client asks for a part, or says what it has: RFC 9110. For the document only."""

    range = header("Range", "Which part is wanted: `bytes=0-499`, `bytes=500-` or `bytes=-500`.")
    if_range = header("If-Range", "An `ETag` or `Last-Modified`: a part only of this content, else all.")
    if_match = header("If-Match", "An `ETag`: this content, or 412.")
    if_unmodified_since = header("If-Unmodified-Since", "A `Last-Modified`: this content, or 412.")
    if_none_match = header("If-None-Match", "An `ETag` that the client has: 304 if it is still this content.")
    if_modified_since = header(
        "If-Modified-Since", "A `Last-Modified` that the client has: 304 if it still is."
    )


class LinkPathSchema(Schema):
    """The path of a link."""

    file_id = f.Integer(required=True)


class ObjectHandler:
    """
    Args:
        store: gives the store, once the application has started.
        signer: the one that made the addresses.
        stall: seconds in which a client has to take a block.
    """

    def __init__(
        self, store: Callable[[], LocalObjects], signer: Callable[[], UrlSigner], stall: float = STALL
    ) -> None:
        self._store = store
        self._signer = signer
        self._stall = stall

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer *request* for an object: 200, 206 or 304; raises a `Problem` for all else."""
        exchange_for(request, "object")
        key = _key(request.match_info["file_id"])
        filename = self._granted(key, request.query)
        try:
            async with self._store().reading(key) as found:
                if found is None:
                    raise Problem(404, "not_found", "The file is no longer there.")
                return await self._answer(request, found, filename)
        except StoreUnavailable as error:
            raise Problem(503, "storage_unavailable", error.detail, headers={"Retry-After": "5"}) from error

    def _granted(self, key: Key, query: MultiMapping[str]) -> str:
        given = [query.getall(name, []) for name in ("expires", "filename", "signature")]
        if any(len(texts) != 1 for texts in given):
            raise _forged()
        read = self._signer().read(key, *(texts[0] for texts in given))
        if read is Denied.FORGED:
            raise _forged()
        if read is Denied.EXPIRED:
            raise Problem(410, "link_expired", "This link has expired. Ask for a new one.")
        return read.filename

    async def _answer(self, request: web.Request, found: Reader, filename: str) -> web.StreamResponse:
        etag, modified = validators(found.info)
        headers = {"ETag": etag, "Last-Modified": modified, "Accept-Ranges": "bytes"}
        if _is_another(request, found.info):
            raise Problem(412, "changed", "The file is not the one that was asked for.", headers=headers)
        if _is_known(request, found.info):
            return web.Response(status=304, headers=headers)
        wanted = request.headers.get("Range") if request.method == "GET" else None
        part = span(found.info, wanted, request.headers.get("If-Range"))
        if part is None:
            headers["Content-Range"] = f"bytes */{found.info.size}"
            raise Problem(416, "range_not_satisfiable", "The file has no such bytes.", headers=headers)
        headers["Content-Disposition"] = disposition(filename)
        headers["Content-Type"] = CONTENT_TYPE
        headers["Cache-Control"] = "private, no-transform"
        headers["X-Content-Type-Options"] = "nosniff"
        if part.partial:
            headers["Content-Range"] = part.content_range(found.info.size)
        response = web.StreamResponse(status=206 if part.partial else 200, headers=headers)
        response.content_length = part.count
        await response.prepare(request)
        if request.method != "HEAD":
            await self._send(request, response, found, part)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, found: Reader, part: Span
    ) -> None:
        """
        The bytes of *part*. The head is out and has told their number, so a failure from here on has one
        way to be told: the connection ends early.
        """
        at, end = part.first, part.first + part.count
        try:
            while at < end:
                block = await found.read(at, min(BLOCK, end - at))
                if not block:
                    raise StoreUnavailable("The file is shorter than it was.")
                async with asyncio.timeout(self._stall):
                    await response.write(block)
                at += len(block)
            await response.write_eof()
        except (StoreError, OSError) as error:  # OSError: the client has gone, or was too slow
            log.info("an object was sent in part only: %s", error or type(error).__name__)
            if request.transport is not None:
                request.transport.abort()


def _is_another(request: web.Request, info: ObjectInfo) -> bool:
    """Whether the client wants another version of the object, and only that: RFC 9110 section 13.2.2."""
    if request.if_match is not None:
        return not any(tag.value in ("*", info.etag) and not tag.is_weak for tag in request.if_match)
    since = _date(request.headers.get("If-Unmodified-Since"))
    return since is not None and int(info.modified) > since


def _is_known(request: web.Request, info: ObjectInfo) -> bool:
    """Whether the client says that it has this very version already."""
    if request.if_none_match is not None:
        return any(tag.value in ("*", info.etag) for tag in request.if_none_match)
    since = _date(request.headers.get("If-Modified-Since"))
    return since is not None and int(info.modified) <= since


def _date(text: str | None) -> float | None:
    """Seconds since 1970; None if it is no date. aiohttp's own reading fails on a year of ten digits."""
    try:
        return parsedate_to_datetime(text or "").timestamp()
    except (ValueError, OverflowError):
        return None


def _forged() -> Problem:
    return Problem(403, "bad_signature", "This link is not one of ours, or has been changed.")


def _key(text: str) -> Key:
    """The key of the file whose id is *text*; what is in a path decides nothing else."""
    try:
        if _ID.fullmatch(text):
            return object_key(int(text))
    except ValueError:
        pass
    raise Problem(404, "not_found", "There is nothing at this path.")


def add_object_routes(app: web.Application, handler: ObjectHandler) -> None:
    """Bind the route of *handler* to *app*."""

    async def serve(request: web.Request) -> web.StreamResponse:  # a method could not be documented
        return await handler.handle(request)

    app.router.add_get(
        f"{PATH}/{PREFIX}{{file_id}}.zip",
        document(
            serve,
            tag="downloads",
            summary="A finished file, by a link that the server gave. Takes `Range`.",
            query=LinkSchema,
            path=LinkPathSchema,
            headers=LinkHeadersSchema,
            replies={
                200: Reply("The file.", BYTES, None, CONTENT_TYPE, VALIDATORS),
                206: Reply("A part of it.", BYTES, None, CONTENT_TYPE, (*VALIDATORS, "Content-Range")),
                304: Reply("The client has it already.", headers=VALIDATORS),
                403: problem("The link is not one of ours, or has been changed."),
                404: problem("The file is no longer there."),
                410: problem("The link has expired."),
                412: problem("The file is not the one that was asked for.", *VALIDATORS),
                416: problem("The file has no such bytes.", *VALIDATORS, "Content-Range"),
                503: problem("The store cannot be read now.", "Retry-After"),
            },
        ),
    )
