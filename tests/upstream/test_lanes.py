"""Lanes when connections may not be opened as fast as attempts come: who waits takes what becomes free."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from strategies import Outcome
from tests.upstream import asking
from tests.upstream.asking import Recorder, acquired, attempt_for, body_of, transport_to, until, within
from tests.upstream.conftest import Serve
from tests.upstream.scripted import answer, read, repeat, send, wait
from upstream import fast_lane


@pytest.fixture(autouse=True)
def on_the_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session has its own queue."""
    monkeypatch.setattr(asking, "PATH", ["fast lane"])


def start(session: aiohttp.ClientSession, url: str) -> asyncio.Future[Outcome]:
    """An attempt, under way."""
    return asyncio.ensure_future(transport_to(session, url)(attempt_for()))


def open_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on attempts get what becomes free, or nothing."""
    monkeypatch.setattr(fast_lane, "OPENS_PER_TURN", 0)
    monkeypatch.setattr(fast_lane, "OPENS_PER_SECOND", 0)


async def test_who_waits_to_open_a_connection_takes_one_that_becomes_free(
    serve: Serve, session: aiohttp.ClientSession, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three attempts, one connection, one after the other."""
    go = asyncio.Event()
    upstream = await serve([read(), wait(go), send(answer()), repeat(read(), send(answer()))])
    first = start(session, upstream.url)
    await until(lambda: ("upstream", "opened") in recorder.connections)
    open_no_more(monkeypatch)
    others = [start(session, upstream.url) for _ in range(2)]
    await asyncio.sleep(0)
    go.set()
    for one in (first, *others):
        assert body_of(await within(one)) == b'{"time": 1}'
    assert recorder.connections == [("upstream", "opened"), ("upstream", "reused"), ("upstream", "reused")]


async def test_who_is_given_up_while_a_lane_is_handed_over_passes_it_on(
    serve: Serve, session: aiohttp.ClientSession, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the very turn: the lane is neither lost nor asked for nobody."""
    go = asyncio.Event()
    upstream = await serve([read(), wait(go), send(answer()), repeat(read(), send(answer()))])
    first = start(session, upstream.url)
    await until(lambda: ("upstream", "opened") in recorder.connections)
    open_no_more(monkeypatch)
    second, third = start(session, upstream.url), start(session, upstream.url)
    await asyncio.sleep(0)
    lane = asking._LANES[session][upstream.url, 1024 * 1024]
    original = lane.free

    def free(one: fast_lane.Lane) -> None:
        original(one)
        monkeypatch.setattr(lane, "free", original)
        second.cancel()

    monkeypatch.setattr(lane, "free", free)
    go.set()
    assert body_of(await within(first)) == b'{"time": 1}'
    assert body_of(await within(third)) == b'{"time": 1}'
    assert second.cancelled()
    assert acquired(session) == 0


async def test_more_connections_are_begun_in_a_long_turn(
    serve: Serve, session: aiohttp.ClientSession, recorder: Recorder
) -> None:
    """In a crowd turns are long, and six for each would be too few."""
    upstream = await serve(*[[read(), send(answer())]] * 40)
    before = [start(session, upstream.url) for _ in range(40)]
    await asyncio.sleep(0)
    lane = asking._LANES[session][upstream.url, 1024 * 1024]
    lane._turned -= 1.0  # the turn has taken a second
    lane._next_turn()
    assert lane._begun == 40 - fast_lane.OPENS_PER_TURN
    for one in before:
        assert body_of(await within(one)) == b'{"time": 1}'
    assert recorder.connections.count(("upstream", "opened")) == 40
