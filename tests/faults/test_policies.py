"""Group F: strategies, breaker and budget under fire. Most rows are shown where the policies are tested."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import permutations

import pytest

from strategies import Attempt, Deadline, Outcome, Rejected, Request, Target, Verdict
from strategies.testing import ScriptedFetch, answers, fails, run_virtual
from tests.faults.process import ROOT, server
from tests.faults.trial import HEALTHY, OK, Logged, bodies, both_ways, trial
from tests.upstream.asking import PATIENCE
from tests.upstream.scripted import (
    Action,
    ScriptedUpstream,
    answer,
    hang,
    read,
    repeat,
    reset,
    send,
    tell,
    wait,
)
from upstream.admission import Refusal, admission
from upstream.breaker import BreakerOptions, CircuitBreaker, State
from upstream.shared_memory import RECORD, SharedFile, attach


@pytest.mark.fault(65)
@both_ways
@pytest.mark.parametrize(
    "script",
    [[read(), hang()], [read(), reset()], [read(), send(answer(b"", status="500 X"))]],
    ids=["hangs", "resets", "500"],
)
async def test_the_first_of_three_is_the_healthy_one(
    script: Sequence[Action], fast_lane: bool, caplog: Logged
) -> None:
    """Wherever it stands among the dead."""
    async with ScriptedUpstream(script) as ill, trial(ill.url, fast_lane, caplog) as tried:
        for targets in sorted(set(permutations(("ill", "ill", "good")))):
            assert bodies(await tried.execute("first", *targets)) == [b'{"time": 1}']


@pytest.mark.fault(68)
@pytest.mark.parametrize("lane", ["on", "off"])
async def test_a_late_answer_is_not_written_to_the_caller(lane: str) -> None:
    """Its request was answered with an error by then; the next one gets its own answer and no more."""
    late, sent = asyncio.Event(), asyncio.Event()
    slow = [
        read(),
        wait(late),
        send(answer(b'{"time": 666}')),
        tell(sent),
        repeat(read(), send(OK)),
    ]
    async with (
        ScriptedUpstream(slow, slow, HEALTHY) as upstream,
        server(WORK_API_URL=upstream.url, FAST_LANE=lane) as running,
    ):
        caller = await running.connect()
        status, body = await caller.ask("/api/first?timeout=1000")
        assert (status, b"timeout" in body) == (500, True)
        late.set()
        if lane == "on":  # the connection waits for what it was asked for; without the lane it is closed
            await asyncio.wait_for(sent.wait(), PATIENCE)
        for _ in range(3):
            assert await caller.ask("/api/first?timeout=5000") == (200, b'{"time": 1}')
        caller.writer.write_eof()
        assert await asyncio.wait_for(caller.reader.read(), PATIENCE) == b""


@pytest.mark.fault(70)
def test_of_a_thousand_who_wait_one_is_the_probe() -> None:
    """When the open time is over all come at once: one call goes out, 999 are refused in the same instant."""

    async def story() -> None:
        loop = asyncio.get_running_loop()
        fetch = ScriptedFetch(fails(0), fails(0), fails(0), answers(0.5))
        circuit = CircuitBreaker(BreakerOptions(jitter=0), random.Random(0))
        guarded = admission(fetch, lambda _: circuit, loop.time, 1.0)
        target = Target("any")
        attempt = Attempt(Request("test", (target,)), target, 0, Deadline(100.0))
        for _ in range(3):
            await guarded(attempt)
        await asyncio.sleep(10)
        outcomes: list[Outcome] = await asyncio.gather(*(guarded(attempt) for _ in range(1000)))
        assert [what for _, what in fetch.log].count("start 3") == 1
        assert not [what for _, what in fetch.log if what == "start 4"]
        refused = [one for one in outcomes if isinstance(one, Rejected)]
        assert len(refused) == 999
        assert {one.ended for one in refused} == {10.0}
        assert circuit.state(loop.time()) is State.CLOSED

    run_virtual(story())


TRIPS = """
import os, random, signal, sys
from strategies import Verdict
from upstream.breaker import BreakerOptions, CircuitBreaker
from upstream.shared_memory import attach
circuit = CircuitBreaker(BreakerOptions(jitter=0), random.Random(0), attach(int(sys.argv[1]), 0))
for now in (1, 2, 3):
    circuit.admit(now).settle(Verdict.FAILURE, now)
os.kill(os.getpid(), signal.SIGKILL)
"""


class TestTheNextWorker:
    """A worker opens the circuit and is killed. Its successor inherits the file from their parent."""

    @pytest.fixture
    def shared(self) -> Iterator[SharedFile]:
        """The parent's file."""
        with closing(SharedFile(1)) as shared:
            yield shared

    @pytest.mark.fault(72)
    def test_finds_the_circuit_as_it_was(self, shared: SharedFile) -> None:
        """Open, with the same seconds to wait."""
        done = subprocess.run(
            [sys.executable, "-c", TRIPS, str(shared.descriptor)],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
            pass_fds=[shared.descriptor],
            check=False,
        )
        assert done.returncode == -signal.SIGKILL
        successor = CircuitBreaker(BreakerOptions(jitter=0), random.Random(1), attach(shared.descriptor, 0))
        assert successor.state(5.0) is State.OPEN
        assert successor.seconds_left(5.0) == 8.0
        assert successor.state(13.0) is State.HALF_OPEN

    @pytest.mark.fault(72)
    def test_takes_a_record_that_is_torn_for_a_closed_circuit(self, shared: SharedFile) -> None:
        """And learns again: three failures open it."""
        os.pwrite(shared.descriptor, b"\xff" * RECORD, 0)
        circuit = CircuitBreaker(BreakerOptions(jitter=0), random.Random(1), attach(shared.descriptor, 0))
        for now in (1.0, 2.0, 3.0):
            assert circuit.state(now) is State.CLOSED
            permit = circuit.admit(now)
            assert not isinstance(permit, Refusal)
            permit.settle(Verdict.FAILURE, now)
        assert circuit.state(3.0) is State.OPEN
