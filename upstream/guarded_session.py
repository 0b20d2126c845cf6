"""A client session of its own for URLs that strangers gave: the guard sees each address before it is dialled.

Nothing of one call is left for the next: no connection, cookie, proxy or looked-up address. It follows no
redirect, unpacks nothing, and throws the answer's body away. What is sent, and what an answer means, it does
not know.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver

from strategies import value
from upstream.callback_url import check_url
from upstream.connector import Connector
from upstream.faults import FAULTS, detail_of, reason_of
from upstream.guard import Denied, Guard

TOTAL = 15.0
"""Seconds that one call may take, from the look-up of the name to the end of the answer."""
MAX_READ = 65_536
"""Bytes that are read of an answer's body, so that a receiver of good manners can finish its sentence."""


@value
class Reply:
    """The head of an answer: its status, and ``Retry-After`` as it came (empty for none)."""

    status: int
    retry_after: str = ""


@value
class NoReply:
    """
    Nobody answered.

    Attributes:
        reason: ``denied`` (by the guard; nothing was sent), ``timeout``, or one of
            `upstream.faults.reason_of`.
        detail: more, in words. For our log: it may name addresses.
    """

    reason: str
    detail: str


Heard: TypeAlias = Reply | NoReply


class GuardedSession:
    """
    Sends to whom its guard lets it. Made by `open_guarded_session`; an async context manager.

    Args:
        session: made for this and for nothing else.
        guard: the same that the session's connector asks.
        total: seconds that one call may take.
    """

    def __init__(self, session: aiohttp.ClientSession, guard: Guard, total: float) -> None:
        self._session = session
        self._guard = guard
        self._total = total

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close it. Calls that are under way fail."""
        await self._session.close()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Heard:
        """POST *body* once. Whatever the URL, the network and the receiver do comes back as a value."""
        head: list[Reply] = []
        try:
            target = check_url(url, self._guard)
            async with asyncio.timeout(self._total):
                response = await self._session.post(target, data=body, headers=headers, allow_redirects=False)
                try:
                    head.append(Reply(response.status, response.headers.get("Retry-After", "")))
                    await _discard(response.content)
                finally:
                    response.close()
        except TimeoutError:
            heard: Heard = NoReply("timeout", f"no answer within {self._total:g} s")
        except Denied as error:
            heard = NoReply("denied", error.why)
        except FAULTS as error:
            heard = _fault(error)
        else:
            heard = head[0]
        # Once the status is here the receiver has spoken, whatever becomes of the body.
        return head[0] if head else heard


def _fault(error: BaseException) -> NoReply:
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else None
    if isinstance(inner, Denied):
        return NoReply("denied", inner.why)
    return NoReply(reason_of(error), detail_of(error))


async def _discard(content: aiohttp.StreamReader) -> None:
    left = MAX_READ
    while left > 0 and (chunk := await content.read(left)):
        left -= len(chunk)


def open_guarded_session(
    guard: Guard,
    *,
    resolver: AbstractResolver | None = None,
    tls: ssl.SSLContext | None = None,
    total: float = TOTAL,
    connections: int = 100,
) -> GuardedSession:
    """
    Open a session for URLs of strangers. Call it on the running loop; whoever calls it closes it.

    Args:
        guard: is asked for every address, after the name was looked up and before a socket exists.
        resolver: what looks names up; aiohttp's usual one if none. It stays its owner's.
        tls: whom to believe; the usual authorities if None.
        total: seconds that one call may take.
        connections: open connections at most; a call that waits for one does so within *total*.
    """
    connector = Connector(
        ssl=True if tls is None else tls,
        resolver=resolver,
        use_dns_cache=False,
        force_close=True,  # no connection outlives the check that let it be made
        limit=connections,
        socket_factory=_door(guard),
    )
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "hedgerow", "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
    )
    return GuardedSession(session, guard, total)


def _door(guard: Guard) -> aiohttp.SocketFactoryType:
    """A maker of sockets that asks *guard* first. A resolver would not do: it is not asked for numbers."""

    def make(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, address = info
        guard.check_text(str(address[0]), int(address[1]))
        return socket.socket(family, kind, protocol)

    return make
