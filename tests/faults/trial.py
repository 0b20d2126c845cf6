"""One trial: a faulty upstream beside a healthy one, asked by every strategy, and what is left afterwards.

It holds each fault to the same: an end by the deadline, the right reason, the healthy upstream's answer where
the strategy's rule allows it, nothing left behind, and no word in the log. What the fault is, the test says.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest

from strategies import (
    AllOptions,
    AllStrategy,
    CollectStrategy,
    Deadline,
    Fetch,
    FirstStrategy,
    HedgedOptions,
    HedgedStrategy,
    NoOptions,
    Reaper,
    Request,
    Result,
    Strategy,
    Target,
    Verdict,
)
from tests.upstream.asking import PATIENCE, Recorder, until
from tests.upstream.scripted import Action, Connection, PeerGone, ScriptedUpstream, answer, read, repeat, send
from upstream.call import Answer
from upstream.circuits import Circuits
from upstream.payloads import work
from upstream.session import PoolLimits, open_session
from upstream.spec import UpstreamSpec
from upstream.stack import Upstreams

OK = answer(b'{"time": 1}')
HEALTHY: Sequence[Action] = [repeat(read(), send(OK))]
SHORT, LONG = 0.8, 10.0
"""Seconds that are given to what hangs, and to what must end by itself, long before."""
SLACK = 15.0
"""Seconds by which an answer may be late here, on a machine that does other things. A hang has no end."""

both_ways = pytest.mark.parametrize("fast_lane", [False, True], ids=["session", "fast lane"])


def sockets() -> int:
    """Open sockets of this process."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed the directory is closed again
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sum(link.startswith("socket:") for link in links)


async def pause(connection: Connection, seconds: float) -> None:
    """Part of a script that takes its time, and ends when the caller hangs up."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(connection.reader.read(1), seconds)
        raise PeerGone


class Recovery:
    """An upstream's way back: until it is `well` it plays its script, from then on it answers."""

    def __init__(self) -> None:
        self.well = asyncio.Event()

    def script(self, script: Sequence[Action]) -> Sequence[Action]:
        """*script*, request after request, until it is well."""

        async def act(connection: Connection) -> None:
            while not connection.writer.is_closing():
                for action in [read(), send(OK)] if self.well.is_set() else script:
                    was_well = self.well.is_set()
                    await action(connection)
                    if self.well.is_set() and not was_well:  # it recovered while it waited for a request
                        await send(OK)(connection)
                        break

        return [act]


class Trial:
    """The upstreams ``ill`` and ``good``, ready to be asked."""

    def __init__(self, fetch: Fetch, recorder: Recorder) -> None:
        self.fetch = fetch
        self.recorder = recorder
        self.reaper = reaper = Reaper()
        self.kinds: dict[str, Strategy[Any]] = {
            "all": AllStrategy(fetch, reaper, AllOptions()),
            "first": FirstStrategy(fetch, reaper, NoOptions()),
            "collect": CollectStrategy(fetch, reaper, NoOptions()),
            "hedged": HedgedStrategy(fetch, reaper, HedgedOptions(delay=0.02)),
        }

    async def execute(self, strategy: str, *targets: str, timeout: float = LONG) -> Result:
        """What *strategy* comes to; it must have ended by the deadline."""
        loop = asyncio.get_running_loop()
        deadline = Deadline.after(timeout, now=loop.time())
        request = Request("trial", tuple(Target(name) for name in targets))
        result = await asyncio.wait_for(self.kinds[strategy].execute(request, deadline), PATIENCE)
        assert loop.time() <= deadline.at + SLACK, f"{strategy} was late"
        return result

    async def every_way(self, *allowed: str) -> None:
        """
        The ill upstream alone, and beside the good one, by each strategy at once. It fails with one of the
        *allowed* reasons: more than one where the two ways to an upstream see the same fault differently.
        """
        hangs = allowed == ("timeout",)
        timeout = SHORT if hangs else LONG
        alone, raced, gathered, collected, hedged = await asyncio.gather(
            self.execute("first", "ill", timeout=timeout),
            self.execute("first", "ill", "good"),
            self.execute("all", "ill", "good", timeout=timeout),
            self.execute("collect", "ill", "good", timeout=timeout),
            self.execute("hedged", "ill", "good", "good"),
        )
        [reason] = reasons(alone)
        assert reason in allowed, alone
        assert (alone.verdict, alone.expired) == (Verdict.FAILURE, hangs), alone
        for result in (raced, hedged):
            assert result.winner is not None, result
            assert result.winner.attempt.target.upstream == "good"
        assert reasons(gathered) == reasons(collected) == [reason, "success"], (gathered, collected)
        met = Verdict.FAILURE if hangs else Verdict.SUCCESS  # ALL wants an end from everybody
        assert gathered.verdict is met, gathered
        assert bodies(collected) == [b'{"time": 1}']

    async def is_well(self, upstream: str) -> None:
        """The next call is answered."""
        result = await self.execute("first", upstream)
        assert bodies(result) == [b'{"time": 1}'], result.outcomes


def reasons(result: Result) -> list[str]:
    """Of all outcomes."""
    return [outcome.reason for outcome in result.outcomes]


def bodies(result: Result) -> list[bytes]:
    """Of all answers that were claimed."""
    return [one.value.body for one in result.answers if isinstance(one.value, Answer)]


Logged: TypeAlias = pytest.LogCaptureFixture


@asynccontextmanager
async def trial(
    url: str, fast_lane: bool, caplog: Logged, limits: PoolLimits | None = None, **ill: Any
) -> AsyncIterator[Trial]:
    """
    The upstream at *url* is ``ill`` (with *ill* in its `UpstreamSpec`), and a healthy one is beside it.

    Leaving the block, nothing may be left: no loser, no task, no connection, and no error in the log.
    """
    caplog.set_level(logging.WARNING)
    tasks, before = asyncio.all_tasks(), sockets()
    loop, recorder = asyncio.get_running_loop(), Recorder()
    async with ScriptedUpstream(HEALTHY) as good, open_session(limits or PoolLimits(), recorder) as session:
        connector = session.connector
        assert connector is not None
        specs = (
            UpstreamSpec(**{"name": "ill", "url": url, "accept": work, **ill}),
            UpstreamSpec("good", good.url, accept=work),
        )
        circuits = Circuits(specs, random.Random(1))
        upstreams = Upstreams(session, specs, recorder, circuits, loop.time, fast_lane)
        try:
            tried = Trial(upstreams.fetch, recorder)
            yield tried
            assert await tried.reaper.aclose(within=PATIENCE) == 0
            assert len(recorder.ended) == len(recorder.started)
            assert "bug" not in {reason for _, reason, _ in recorder.ended}
        finally:
            upstreams.close()
        await until(lambda: not connector._acquired)
    await until(lambda: asyncio.all_tasks() <= tasks)
    await until(lambda: sockets() <= before)
    said = [record.getMessage() for record in caplog.records if record.name != "hedgerow.upstream"]
    assert not said, said
