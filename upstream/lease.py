"""Connections for the fast lane, opened by the shared session's connector and counted by it until they end.

The one room that knows how a connection is taken out of aiohttp's hands: its connector opens it (names, TLS,
limits are aiohttp's), then our protocol takes the place of aiohttp's on the transport. The private names used
are few, and the tests of the transport, which run on every supported aiohttp, would miss them.
"""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from upstream.call import Call
from upstream.transport import below

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)


class Lease:
    """One connection on loan."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._theirs = connection.protocol

    def adopt(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Let *protocol* have what comes in; returns the transport to write to."""
        transport = self._connection.transport
        assert transport is not None  # noqa: S101 - it was opened a moment ago
        transport.set_protocol(protocol)
        return transport

    def give_back(self, error: Exception | None) -> None:
        """The connection is gone: aiohttp's protocol hears of it, and its connector has a place free."""
        if self._theirs is not None:
            self._theirs.connection_lost(error)
            self._theirs = None
            self._connection.close()


class Leases:
    """Opens connections to one upstream, and words requests to it."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        connector = session.connector
        assert connector is not None  # noqa: S101 - the session is open
        self._session = session
        self._connector = connector
        self._url = URL(url)
        self._request = aiohttp.ClientRequest("GET", self._url, loop=asyncio.get_running_loop())
        host = self._request.headers["Host"]
        self.head = (
            f" HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n"
            "User-Agent: hedgerow\r\n\r\n"
        ).encode("latin-1")

    def request_for(self, call: Call) -> bytes:
        """The bytes of a GET for *call*."""
        url = below(self._url, call.segments) if call.segments else self._url
        head = self.head
        if call.traceparent:
            head = b"%btraceparent: %b\r\n\r\n" % (head[:-2], call.traceparent.encode("ascii"))
        return b"GET %b%b" % (url.raw_path_qs.encode("ascii"), head)

    async def open(self) -> Lease:
        """A connection; raises what `upstream.faults` knows."""
        if self._session.closed:
            raise RuntimeError("Session is closed")  # a bug of ours, and no fault of the upstream
        connection = await self._connector.connect(self._request, [], _NO_TIMEOUT)
        if connection.transport is None:
            connection.close()
            raise aiohttp.ServerDisconnectedError
        return Lease(connection)

    def wanted(self) -> bool:
        """Whether all places of the connector are taken, so that an idle lane must make room for others."""
        return 0 < self._connector.limit <= len(self._connector._acquired)


def can_lease(session: aiohttp.ClientSession) -> bool:
    """
    Whether lanes may be kept: not with a limit per host, where an idle lane would take the place of a
    call on the session path for as long as it is idle.
    """
    connector = session.connector
    return connector is not None and not connector.limit_per_host
