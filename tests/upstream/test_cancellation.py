"""An attempt can be given up at any moment: at once, and without a trace."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from strategies import Outcome
from tests.upstream.asking import PATIENCE, Recorder, acquired, ask, body_of, turns, until, within
from tests.upstream.conftest import Serve
from tests.upstream.scripted import Action, answer, hang, read, repeat, send
from upstream.session import PoolLimits, open_session

pytestmark = pytest.mark.usefixtures("path")

OK = answer(b'{"time": 1}')
PLAIN = [repeat(read(), send(OK))]
PROMISED = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

AFTER_THE_REQUEST = {
    "nothing answered": [read(), hang()],
    "half a head": [read(), send(PROMISED[:20]), hang()],
    "only informational answers": [read(), send(b"HTTP/1.1 103 Early Hints\r\n\r\n"), hang()],
    "the head and no body": [read(), send(PROMISED), hang()],
    "half a body": [read(), send(PROMISED + b'{"time"'), hang()],
    "half a chunk": [read(), send(CHUNKED + b'b\r\n{"time"'), hang()],
    "a body without end": [read(), send(CHUNKED), repeat(send(b"400\r\n" + b" " * 1024 + b"\r\n"))],
}


async def give_up(attempt: asyncio.Future[Outcome]) -> None:
    """Cancel *attempt* and see that it ends as cancelled, without waiting for anything on the wire."""
    attempt.cancel()
    for _ in range(5):
        if attempt.done():
            break
        await asyncio.sleep(0)
    assert attempt.done(), "a cancelled attempt is still winding down after five turns of the loop"
    assert attempt.cancelled()


class SilentResolver(AbstractResolver):
    """A name server that does not answer; it knows when it was asked, and whether somebody still waits."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.lookups = 0
        self.given_up = False

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.set()
        self.lookups += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.given_up = True
        raise AssertionError("never reached")

    async def close(self) -> None:
        """Nothing to close."""


@pytest.mark.fault(46)
async def test_while_the_name_is_looked_up(session: aiohttp.ClientSession, serve: Serve) -> None:
    """The attempt ends; the look-up, which others may share, goes on until the session closes."""
    before = asyncio.all_tasks()
    upstream, silent = await serve(PLAIN), SilentResolver()
    assert isinstance(session.connector, aiohttp.TCPConnector)
    session.connector._resolver = silent
    for _ in range(2):
        attempt = asyncio.ensure_future(ask(session, "http://upstream.test"))
        await within(silent.asked.wait())
        await turns()
        await give_up(attempt)
        await until(lambda: acquired(session) == 0)
    assert silent.lookups == 1
    body_of(await ask(session, upstream.url))
    await session.close()
    await until(lambda: silent.given_up)
    await until(lambda: asyncio.all_tasks() <= before)


@pytest.mark.fault(43)
async def test_before_the_connection_stands(session: aiohttp.ClientSession, serve: Serve) -> None:
    """The server accepts and never answers the TLS greeting: the half-made connection is closed."""
    upstream = await serve([hang()], PLAIN)
    attempt = asyncio.ensure_future(ask(session, upstream.url.replace("http:", "https:")))
    await until(lambda: upstream.connections == 1)
    await turns()
    await give_up(attempt)
    await within(upstream.gone.wait())
    await until(lambda: acquired(session) == 0)
    body_of(await ask(session, upstream.url))


@pytest.mark.parametrize("script", AFTER_THE_REQUEST.values(), ids=list(AFTER_THE_REQUEST))
async def test_after_the_request_was_sent(
    session: aiohttp.ClientSession, serve: Serve, script: list[Action]
) -> None:
    """However much of the answer has come: the connection is closed, not kept, and the next call is fine."""
    upstream = await serve(script, PLAIN)
    attempt = asyncio.ensure_future(ask(session, upstream.url, max_body=2**30))
    await until(lambda: len(upstream.requests) == 1)
    await turns()
    await give_up(attempt)
    await until(lambda: acquired(session) == 0)
    await within(upstream.gone.wait())
    body_of(await ask(session, upstream.url))
    assert upstream.connections == 2


async def test_in_the_very_turn_in_which_the_answer_came(
    session: aiohttp.ClientSession, serve: Serve
) -> None:
    """A cancellation that meets its answer half-way leaves the pool as it should be, at whichever step."""
    upstream = await serve(PLAIN)
    for moment in range(40):
        attempt = asyncio.ensure_future(ask(session, upstream.url))
        await turns(moment)
        attempt.cancel()
        await asyncio.wait([attempt], timeout=PATIENCE)
        assert attempt.cancelled() or body_of(attempt.result())
        await until(lambda: acquired(session) == 0)
    body_of(await ask(session, upstream.url))


class TestWaitingForASlot:
    """One connection at most, and it is taken."""

    async def test_the_waiting_one_is_given_up(self, serve: Serve, recorder: Recorder) -> None:
        """It leaves the queue, and does not disturb the one that holds the connection."""
        upstream = await serve([read(), hang()], PLAIN)
        async with open_session(PoolLimits(connections=1), recorder) as session:
            holding = asyncio.ensure_future(ask(session, upstream.url))
            await until(lambda: len(upstream.requests) == 1)
            waiting = asyncio.ensure_future(ask(session, upstream.url))
            await turns()
            assert upstream.connections == 1
            await give_up(waiting)
            assert acquired(session) == 1
            assert not holding.done()
            await give_up(holding)
            await until(lambda: acquired(session) == 0)
            body_of(await ask(session, upstream.url))

    async def test_the_waiting_one_is_given_up_as_its_turn_comes(
        self, serve: Serve, recorder: Recorder
    ) -> None:
        """A slot that was handed to a cancelled attempt goes on to the next in the queue."""
        upstream = await serve([read(), hang()], PLAIN)
        async with open_session(PoolLimits(connections=1), recorder) as session:
            holding = asyncio.ensure_future(ask(session, upstream.url))
            await until(lambda: len(upstream.requests) == 1)
            waiting = [asyncio.ensure_future(ask(session, upstream.url)) for _ in range(2)]
            await turns()
            holding.cancel()
            await asyncio.wait([holding])
            waiting[0].cancel()
            await asyncio.wait(waiting, timeout=PATIENCE)
            body_of(waiting[1].result())
            await until(lambda: acquired(session) == 0)
            body_of(await ask(session, upstream.url))
