"""After any mix of faults and cancels everything is back to base: tasks, losers, connections, sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from aiohttp.resolver import _DNSResolverManager

from strategies import (
    Deadline,
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
from tests.upstream.asking import PATIENCE, Recorder, acquired, ask, body_of, until, upstreams_over, within
from tests.upstream.scripted import (
    Script,
    ScriptedUpstream,
    answer,
    close,
    hang,
    read,
    repeat,
    reset,
    send,
)
from upstream.payloads import work
from upstream.session import PoolLimits, open_session
from upstream.simulator.app import WORK_PATH, serve_simulator
from upstream.simulator.latency import parse_latency
from upstream.simulator.work import WorkModel
from upstream.spec import UpstreamSpec

ATTEMPTS, BATCH = 2000, 20
"""Attempts at least in one storm, and executions of the strategy that are under way at once."""

OK = answer(b'{"time": 1}')
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVIL: list[Script] = [
    [repeat(read(), send(OK))],
    [read(), close()],
    [read(), send(OK), read(), reset()],
    [close()],
    [reset()],
    [read(), hang()],
    [read(), send(OK[:40]), close()],
    [read(), send(OK[:-4]), reset()],
    [read(), send(CHUNKED + b"zz\r\n"), hang()],
    [read(), send(CHUNKED), repeat(send(b"400\r\n" + b" " * 1024 + b"\r\n"))],
    [read(), send(OK), close()],
    [read(), send(OK + OK), hang()],
]


def sockets() -> int:
    """Open sockets of this process."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed the directory is closed again
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sum(link.startswith("socket:") for link in links)


async def storm(strategy: Strategy[Any], recorder: Recorder, rng: random.Random) -> tuple[list[Result], int]:
    """Execute *strategy* again and again; cancel a third from outside. The results, and how many had none."""
    loop = asyncio.get_running_loop()
    request = Request("storm", (Target("simulator"), Target("evil"), Target("simulator")))
    results: list[Result] = []
    cancelled = 0
    while len(recorder.started) < ATTEMPTS or not any(one.verdict is Verdict.SUCCESS for one in results):
        batch = []
        for _ in range(BATCH):
            deadline = Deadline.after(rng.uniform(0.002, 0.1), now=loop.time())
            execution = asyncio.ensure_future(strategy.execute(request, deadline))
            if rng.random() < 1 / 3:
                loop.call_later(rng.uniform(0, 0.04), execution.cancel)
            batch.append(execution)
        for ended in await within(asyncio.gather(*batch, return_exceptions=True)):
            if isinstance(ended, Result):
                results.append(ended)
            else:
                assert isinstance(ended, asyncio.CancelledError), ended
                cancelled += 1
    return results, cancelled


@pytest.mark.parametrize("kind", ["first", "hedged"])
async def test_nothing_is_left_of_a_storm(kind: str) -> None:
    """2,000 and more attempts, a third of the callers gone early, a third of the upstreams vile: no trace."""
    rng = random.Random(20_240_229)
    reaper, recorder = Reaper(), Recorder()
    model = WorkModel(parse_latency("uniform:1-8"), failure=0.1, invalid=0.1, hang=0.1)
    base_tasks = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(serve_simulator(model, rng))
        evil = await stack.enter_async_context(ScriptedUpstream(*EVIL * 1000))
        tasks, before = asyncio.all_tasks(), sockets()
        async with open_session(PoolLimits(connections=120), recorder) as session:
            specs = (
                UpstreamSpec("simulator", simulator + WORK_PATH, accept=work),
                UpstreamSpec("evil", evil.url, accept=work, timeout=0.01, max_body=4096),
            )
            fetch = upstreams_over(session, recorder, *specs, clock=asyncio.get_running_loop().time).fetch
            strategy: Strategy[Any] = FirstStrategy(fetch, reaper, NoOptions())
            if kind == "hedged":
                strategy = HedgedStrategy(fetch, reaper, HedgedOptions(delay=0.002))
            results, cancelled = await storm(strategy, recorder, rng)

            assert await reaper.aclose(within=PATIENCE) == 0
            assert reaper.pending == 0
            await until(lambda: acquired(session) == 0)
            assert len(recorder.ended) == len(recorder.started) >= ATTEMPTS
            assert "bug" not in {reason for _, reason, _ in recorder.ended}
            assert {result.verdict for result in results} == {Verdict.SUCCESS, Verdict.FAILURE}
            assert cancelled > 50
            body_of(await ask(session, f"{simulator}{WORK_PATH}?failure=0&invalid=0&hang=0"))
        await until(lambda: asyncio.all_tasks() <= tasks)
        await until(lambda: sockets() <= before)
    await until(lambda: asyncio.all_tasks() <= base_tasks)


async def test_a_session_takes_its_resolver_with_it() -> None:
    """Closing the session releases the resolver, whose descriptors and thread nobody else would give back."""
    resolvers, loop = _DNSResolverManager()._loop_data, asyncio.get_running_loop()
    async with open_session(PoolLimits(), Recorder()):
        assert loop in resolvers
    assert loop not in resolvers
