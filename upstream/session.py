"""The one pooled client session that every attempt shares, with the settings that make it fit for deadlines.

Who may open one is `server.lifespan` alone; everybody else is handed it.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Protocol

import aiohttp

from strategies import Attempt, value
from upstream.connector import Connector


@value
class PoolLimits:
    """
    Attributes:
        connections: open connections at most, over all upstreams. aiohttp's default of 100 alone makes
            most of 200 callers fail while the processor idles.
        per_upstream: open connections at most to one host and port; 0 for no such limit.
        keepalive: seconds an idle connection is kept.
        dns_ttl: seconds a looked-up address is believed.
    """

    connections: int = 10_000
    per_upstream: int = 0
    keepalive: float = 15.0
    dns_ttl: int = 30


class ConnectionObserver(Protocol):
    """Whoever counts connections."""

    def connection(self, upstream: str, state: str) -> None:
        """A connection to *upstream* was ``opened`` or ``reused``."""


def open_session(limits: PoolLimits, observer: ConnectionObserver) -> aiohttp.ClientSession:
    """
    Open the shared session. Call it on the running loop; whoever calls it closes it.

    Time has one owner, the deadline: aiohttp's own limits are off (they round up above 5 s). Cookies and
    the proxy variables of the environment are ignored, so that no upstream's answer changes another call.
    """
    connector = Connector(
        limit=limits.connections,
        limit_per_host=limits.per_upstream,
        keepalive_timeout=limits.keepalive,
        ttl_dns_cache=limits.dns_ttl,
        # aiodns is installed, so the resolver is c-ares: a slow name server holds no thread.
    )
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Accept": "application/json", "User-Agent": "hedgerow"},
        trace_configs=[_count_connections(observer.connection)],
        trust_env=False,
    )
    # aiohttp repeats a GET by itself when the server drops the connection. Breaker, budget and metrics would
    # each miss one failure and one call. There is no public switch; tests/upstream/test_transport.py watches.
    session._retry_connection = False
    return session


def _count_connections(count: Callable[[str, str], None]) -> aiohttp.TraceConfig:
    trace = aiohttp.TraceConfig()

    async def opened(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        count(_upstream_of(context), "opened")

    async def reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        count(_upstream_of(context), "reused")

    trace.on_connection_create_end.append(opened)
    trace.on_connection_reuseconn.append(reused)
    return trace


def _upstream_of(context: SimpleNamespace) -> str:
    attempt = context.trace_request_ctx
    return attempt.target.upstream if isinstance(attempt, Attempt) else "other"
