"""One circuit over four processes: one probe in all, an open circuit for all, real calls counted."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.server.raw import until
from upstream.shared_memory import SharedFile

ROOT = Path(__file__).parents[2]
WORKERS = 4

WORKER = """
import random, socket, sys
from strategies import Verdict
from upstream.admission import Refusal
from upstream.breaker import BreakerOptions, CircuitBreaker
from upstream.shared_memory import attach

descriptor, port = map(int, sys.argv[1:])
circuit = CircuitBreaker(BreakerOptions(jitter=0), random.Random(0), attach(descriptor, 0))
held = []
for line in sys.stdin:
    order, now, word = line.split()
    if order == "call":  # as often as told, keeping what was admitted under way
        for _ in range(int(word)):
            permit = circuit.admit(float(now))
            if not isinstance(permit, Refusal):
                socket.create_connection(("127.0.0.1", port)).close()
                held.append(permit)
    elif order == "settle":
        for permit in held:
            permit.settle(Verdict[word], float(now))
        held.clear()
    print(len(held), circuit.state(float(now)).value, flush=True)
"""


class Workers:
    """Four processes that do the same at once."""

    def __init__(self, processes: list[Process]) -> None:
        self.processes = processes

    async def do(self, order: str, now: float, word: object) -> list[tuple[int, str]]:
        """Give the order to all at once; what each holds afterwards, and the state that it sees."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{order} {now} {word}\n".encode())
        lines = [await process.stdout.readline() for process in self.processes if process.stdout is not None]
        return [(int(held), state) for held, state in (line.decode().split() for line in lines)]


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[int, list[int]]]:
    """An upstream that counts who comes; its port and the count."""
    count = [0]

    def came(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count[0] += 1
        writer.close()

    server = await asyncio.start_server(came, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], count


async def called(calls: list[int], times: int) -> None:
    """Wait for the calls that were made but not counted yet; there are no more than *times*."""
    await until(lambda: calls[0] >= times)
    assert calls == [times]


@asynccontextmanager
async def four(port: int) -> AsyncIterator[Workers]:
    """Four workers on one circuit."""
    shared = SharedFile(1)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WORKER, str(shared.descriptor), str(port)),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=[shared.descriptor],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        )
        for _ in range(WORKERS)
    ]
    try:
        yield Workers(processes)
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()
        shared.close()


@pytest.mark.fault(70)
async def test_one_probe_over_all_workers(upstream: tuple[int, list[int]]) -> None:
    """Failures count together, the open circuit is seen by all, and each half-open time has one call."""
    port, calls = upstream
    async with four(port) as workers:
        await workers.do("call", 100, 1)
        seen = await workers.do("settle", 100, "FAILURE")  # one failure each: the third one opens it
        assert {state for _, state in seen} <= {"closed", "open"}
        assert {state for _, state in await workers.do("call", 100.5, 50)} == {"open"}
        await called(calls, WORKERS)
        now, open_time = 100.0, 10.0
        for turn in range(1, 6):
            now += open_time
            seen = await workers.do("call", now, 50)
            assert sum(held for held, _ in seen) == 1
            await called(calls, WORKERS + turn)
            await workers.do("settle", now, "FAILURE")
            open_time = min(60.0, open_time * 2)
        now += open_time
        await workers.do("call", now, 50)
        await workers.do("settle", now, "SUCCESS")
        seen = await workers.do("call", now, 1)
        assert seen == [(1, "closed")] * WORKERS


@pytest.mark.fault(70)
async def test_the_probe_of_a_killed_worker_is_given_up(upstream: tuple[int, list[int]]) -> None:
    """After its lease another worker probes."""
    port, calls = upstream
    async with four(port) as workers:
        await workers.do("call", 100, 1)
        await workers.do("settle", 100, "FAILURE")
        seen = await workers.do("call", 110, 1)
        [prober] = [n for n, (held, _) in enumerate(seen) if held]
        killed = workers.processes.pop(prober)
        killed.kill()
        await killed.communicate()
        assert sum(held for held, _ in await workers.do("call", 169, 10)) == 0
        assert sum(held for held, _ in await workers.do("call", 170, 10)) == 1
        await called(calls, WORKERS + 2)
