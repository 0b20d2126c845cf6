"""Several workers: what the parent decides, on a clock of its own, and what becomes of real processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from server.serve import TWINS
from server.workers import FIRST_DELAY, Action, Fork, Send, Supervisor

ROOT = Path(__file__).parents[2]
FIXED = {
    "SIMULATOR_FAILURE": "0",
    "SIMULATOR_INVALID": "0",
    "SIMULATOR_HANG": "0",
    "SIMULATOR_LATENCY": "constant:1",
    "SIMULATOR_EVENT_FAILURE": "0",
    "SIMULATOR_EVENT_DELAY_MS": "1",
    "ACCESS_LOG": "off",
    "DOWNLOADS": "off",
}
PATIENT = "import server.worker_metrics\nserver.worker_metrics.DEADLINE = 20.0"
"""The workers wait for each other's figures, however busy this machine is."""
TERM, KILL, INT = signal.SIGTERM, signal.SIGKILL, signal.SIGINT


def started(wanted: int) -> Supervisor:
    """A supervisor whose workers 1, 2, … are ready at 0 s."""
    supervisor = Supervisor(wanted, stop_within=10, numbers=itertools.count(1))
    for action in supervisor.start(0):
        assert supervisor.ready(action.number, 0) == []
    return supervisor


def test_it_starts_as_many_as_wanted() -> None:
    """And says when all of them are ready."""
    supervisor = Supervisor(2, stop_within=10, numbers=itertools.count(1))
    assert supervisor.start(0) == [Fork(1), Fork(2)]
    supervisor.ready(1, 0)
    assert not supervisor.serving
    supervisor.ready(2, 0)
    assert supervisor.serving


def test_one_that_dies_young_is_replaced_later_each_time() -> None:
    """0.1 s, 0.2 s, … 5 s; one that has lived 10 s is replaced at once."""
    supervisor, now, number = started(1), 0.0, 1
    delays = []
    for _ in range(8):
        assert supervisor.ended(number, now) == []
        due = supervisor.due()
        assert due is not None
        delays.append(round(due - now, 3))
        assert supervisor.tick(due - 0.001) == []
        now, number = due, number + 1
        assert supervisor.tick(now) == [Fork(number)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    supervisor.ready(number, now)
    assert supervisor.ended(number, now + 10) == [Fork(number + 1)]


def test_the_back_off_of_one_does_not_hold_up_another() -> None:
    """Each place counts for itself."""
    supervisor = started(2)
    supervisor.ended(1, 0)
    assert supervisor.tick(0.1) == [Fork(3)]
    supervisor.ended(3, 0.1)
    assert supervisor.ended(2, 20) == [Fork(4), Fork(5)]


def test_a_rolling_restart_goes_one_at_a_time() -> None:
    """A successor, its readiness, the end of the old one; then the next."""
    supervisor = started(2)
    timeline: list[tuple[str, list[Action]]] = [
        ("renew", supervisor.renew(1)),
        ("3 ready", supervisor.ready(3, 2)),
        ("1 ended", supervisor.ended(1, 3)),
        ("4 ready", supervisor.ready(4, 4)),
        ("2 ended", supervisor.ended(2, 5)),
    ]
    assert timeline == [
        ("renew", [Fork(3)]),
        ("3 ready", [Send(1, TERM)]),
        ("1 ended", [Fork(4)]),
        ("4 ready", [Send(2, TERM)]),
        ("2 ended", []),
    ]
    assert supervisor.serving
    assert not supervisor.renewing


def test_a_successor_that_dies_leaves_the_old_one_at_work() -> None:
    """It is tried again with back-off, and nobody is asked to leave meanwhile."""
    supervisor = started(1)
    assert supervisor.renew(1) == [Fork(2)]
    assert supervisor.ended(2, 1) == []
    assert supervisor.due() == pytest.approx(1.1)
    assert supervisor.tick(1.1) == [Fork(3)]
    assert supervisor.ended(3, 1.1) == []
    assert supervisor.due() == pytest.approx(1.3)


def test_an_old_one_that_dies_by_itself_needs_no_second_successor() -> None:
    """There are never more than one too many."""
    supervisor = started(1)
    assert supervisor.renew(20) == [Fork(2)]
    assert supervisor.ended(1, 20) == []
    assert supervisor.ready(2, 21) == []
    assert not supervisor.renewing


def test_a_second_restart_during_the_first_replaces_the_new_ones_too() -> None:
    """Whoever was started before the last word is old."""
    supervisor = started(1)
    supervisor.renew(1)
    assert supervisor.ready(2, 2) == [Send(1, TERM)]
    assert supervisor.renew(3) == []
    assert supervisor.ended(1, 4) == [Fork(3)]
    assert supervisor.ready(3, 5) == [Send(2, TERM)]


def test_one_that_does_not_end_is_killed() -> None:
    """Once, when its time is over."""
    supervisor = started(1)
    assert supervisor.stop(1, TERM) == [Send(1, TERM)]
    assert supervisor.stop(2, TERM) == [Send(1, TERM)]
    assert supervisor.due() == 11
    assert supervisor.tick(11) == [Send(1, KILL)]
    assert supervisor.tick(12) == []
    assert supervisor.ended(1, 12) == []
    assert supervisor.done


def test_one_that_never_accepts_is_killed() -> None:
    """And replaced."""
    supervisor = Supervisor(1, stop_within=10, numbers=itertools.count(1))
    supervisor.start(0)
    assert supervisor.tick(30) == [Send(1, KILL)]
    assert supervisor.ended(1, 30) == [Fork(2)]


def test_nobody_is_started_while_stopping() -> None:
    """Not even in place of one that dies."""
    supervisor = started(2)
    supervisor.renew(1)
    assert supervisor.stop(1, INT) == [Send(1, INT), Send(2, INT), Send(3, INT)]
    assert [supervisor.ended(number, 2) for number in (1, 2, 3)] == [[], [], []]
    assert (supervisor.done, supervisor.due()) == (True, None)


def alive(pids: set[int]) -> set[int]:
    """Those of *pids* that run, and are not just remembered by whoever started them."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if not Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z"):
                found.add(pid)
    return found


async def ended(pids: set[int]) -> None:
    """Wait until all of *pids* have ended. The pipe they shared closes a moment before that."""
    loop = asyncio.get_running_loop()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            descriptor, over = os.pidfd_open(pid), asyncio.Event()
            loop.add_reader(descriptor, over.set)
            try:
                await asyncio.wait_for(over.wait(), 60)
            finally:
                loop.remove_reader(descriptor)
                os.close(descriptor)


def children(pid: int) -> set[int]:
    """The processes that *pid* has started and that run."""
    return alive(set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())))


class Server:
    """A server with workers, its log line by line."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.url = ""
        self.workers: dict[int, int] = {}
        """Process id by number."""
        self.lines: list[dict[str, Any]] = []

    async def until(self, found: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Read the log up to the line that is looked for."""
        assert self.process.stderr is not None
        while raw := await self.process.stderr.readline():
            line: dict[str, Any] = json.loads(raw)
            self.lines.append(line)
            if name := re.fullmatch(r"worker (\d+) (started|ended)", line["message"]):
                if name[2] == "started":
                    self.workers[int(name[1])] = line["pid"]
                else:
                    del self.workers[int(name[1])]
            if found(line):
                return line
        raise EOFError("the log has ended")

    async def said(self, words: str) -> dict[str, Any]:
        """The line with these words."""
        return await self.until(lambda line: words in line["message"])


@asynccontextmanager
async def running(
    workers: int = 2, code: str = "", *, listens: bool = True, **environ: str
) -> AsyncIterator[Server]:
    """A server, once it *listens*, with *code* run before it; whatever the test leaves is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", f"import sys\n{PATIENT}\n{code}\nfrom server.__main__ import main\nsys.exit(main())"),
        *("--port", "0", "--workers", str(workers)),
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **FIXED, **environ},
        stdout=PIPE,
        stderr=PIPE,
    )
    server = Server(process)
    try:
        async with asyncio.timeout(120):
            if listens:
                server.url = (await server.until(lambda line: "url" in line))["url"]
            yield server
    finally:
        if process.returncode is None:
            process.kill()  # its children see the end of the lifeline, drain, and tidy up
        await process.communicate()


async def metrics(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """All samples that ``/metrics`` tells."""
    async with session.get(f"{url}/metrics") as response:
        text = await response.text()
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(number) for name, _, number in rows}


FIRST = 'hedgerow_responses_total{reason="ok",route="first",status="200"}'


@pytest.mark.fault(88)
async def test_all_workers_answer_and_one_tells_for_all() -> None:
    """Whichever is asked has counted every request; one simulator serves them."""
    async with running() as server, aiohttp.ClientSession() as session:
        assert len(server.workers) == 2
        assert len(children(server.process.pid)) == 3
        for asked in range(1, 21):
            async with session.get(f"{server.url}/api/first", headers={"Connection": "close"}) as response:
                assert response.status == 200
            assert (await metrics(session, server.url))[FIRST] == asked
        told = await metrics(session, server.url)
        assert told['hedgerow_workers{state="told"}'] == 2
        assert told['hedgerow_workers{state="silent"}'] == 0


async def test_an_event_added_by_one_is_there_for_all() -> None:
    """The built-in event service is one, whichever worker is asked."""
    event = {"name": "fête", "userId": "1"}
    async with running() as server, aiohttp.ClientSession() as session:
        sizes = []
        for _ in range(4):
            async with session.post(f"{server.url}/addEvent", json=event) as response:
                assert response.status < 300, await response.text()
            async with session.get(f"{server.url}/getEvents", headers={"Connection": "close"}) as response:
                sizes.append(len(await response.text()))
        assert sizes == sorted(set(sizes))


@pytest.mark.fault(85)
async def test_a_circuit_that_one_opens_is_open_for_all() -> None:
    """The one that opens it is stopped; the other one, which has made no call, refuses."""
    async with running(EVENT_API_BASE_URL="http://127.0.0.1:9") as server:
        first, second = server.workers.values()
        try:
            os.kill(second, signal.SIGSTOP)
            async with aiohttp.ClientSession() as session:
                for _ in range(3):
                    async with session.get(f"{server.url}/getUsers") as response:
                        assert response.status in (502, 503)  # a failed call, then a refused one
            os.kill(first, signal.SIGSTOP)
            os.kill(second, signal.SIGCONT)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{server.url}/ready") as response:
                    told = await response.json()
                assert told["upstreams"]["events"]["circuits"]["getUsers"]["state"] == "open"
                assert told["upstreams"]["work"]["simulated"]
        finally:
            for pid in (first, second):
                os.kill(pid, signal.SIGCONT)


async def follow(url: str, job_id: str, seen: list[tuple[str, str]], most: int) -> bool:
    """
    Add up to *most* events of the job to *seen*, over a connection of its own, which may break; whether there
    are more.
    """
    headers = {"Last-Event-ID": seen[-1][0]} if seen else {}
    last = ""
    with contextlib.suppress(aiohttp.ClientError):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/download/subscribe/{job_id}", headers=headers) as response,
        ):
            assert response.status in (200, 204, 503), await response.text()
            if response.status == 204:
                return False
            async for raw in response.content:
                name, _, text = raw.decode().rstrip().partition(": ")
                if name == "id":
                    last = text
                elif name == "event":
                    seen.append((last, text))
                    most -= 1
                if not (name or most):
                    break
    return True


@pytest.mark.fault(84, 96)
async def test_a_download_goes_on_whichever_worker_is_asked_and_whichever_is_killed(tmp_path: Path) -> None:
    """They share the embedded store, its events and the secret of the links; a job of the dead goes on."""
    environ: Any = {
        "DOWNLOADS": "on",
        "RATE_LIMIT": "off",
        "DATA_DIR": str(tmp_path),
        "DOWNLOAD_DELAY_MIN_MS": "2000",
        "DOWNLOAD_DELAY_MAX_MS": "2000",
    }
    soon = "from server.downloads import engine\nengine.REDELIVERY = 2.0"
    seen: list[tuple[str, str]] = []
    async with running(2, soon, **environ) as server, asyncio.timeout(120):
        async with (
            aiohttp.ClientSession(server.url) as session,
            session.post("/v1/download/initiate", json={"file_ids": [70000, 70007]}) as response,
        ):
            assert response.status == 200, await response.text()
            job_id = (await response.json())["jobId"]
        assert await follow(server.url, job_id, seen, 4)
        victim = min(server.workers)
        os.kill(server.workers[victim], KILL)
        await server.said(f"worker {victim} ended")
        while await follow(server.url, job_id, seen, 3):
            pass
        kinds = [kind for _, kind in seen]
        assert (kinds[:2], kinds[-1], kinds.count("completed")) == (["queued", "running"], "completed", 1)
        assert len({event for event, _ in seen}) == len(seen)
        await server.said("started")
        first, second = server.workers.values()
        try:
            os.kill(second, signal.SIGSTOP)
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{server.url}/v1/download/{job_id}") as response,
            ):
                file = (await response.json())["files"][0]
            os.kill(first, signal.SIGSTOP)
            os.kill(second, signal.SIGCONT)
            async with aiohttp.ClientSession() as session, session.get(file["downloadUrl"]) as response:
                assert (response.status, len(await response.read())) == (200, file["size"])
        finally:
            for pid in (first, second):
                os.kill(pid, signal.SIGCONT)


@pytest.mark.fault(84)
async def test_a_killed_worker_is_replaced_and_nothing_that_was_told_is_lost() -> None:
    """The other one serves meanwhile."""
    async with running() as server, aiohttp.ClientSession() as session:
        for _ in range(10):
            async with session.get(f"{server.url}/api/first", headers={"Connection": "close"}):
                pass
        before = (await metrics(session, server.url))[FIRST]
        victim = min(server.workers)
        os.kill(server.workers[victim], KILL)
        ended = await server.said(f"worker {victim} ended")
        assert ended["code"] == -KILL
        async with session.get(f"{server.url}/api/first", headers={"Connection": "close"}) as response:
            assert response.status == 200
        await server.said("started")
        assert len(server.workers) == 2
        assert (await metrics(session, server.url))[FIRST] == before + 1


@pytest.mark.fault(83)
async def test_a_rolling_restart_loses_no_request() -> None:
    """New processes, callers on kept connections all the while, and no counter goes down."""
    lost: list[object] = []
    answered = 0

    async def ask(url: str, session: aiohttp.ClientSession, over: asyncio.Event) -> None:
        nonlocal answered
        while not over.is_set():
            try:
                async with session.get(f"{url}/api/first") as response:
                    await response.read()
                    assert response.status == 200
                answered += 1
            except aiohttp.ClientError as error:
                lost.append(error)

    connector = aiohttp.TCPConnector(limit=0)
    async with running() as server, aiohttp.ClientSession(connector=connector) as session:
        before, over = set(server.workers.values()), asyncio.Event()
        callers = [asyncio.ensure_future(ask(server.url, session, over)) for _ in range(8)]
        await server_counts(session, server.url, 1)
        counted = await metrics(session, server.url)
        server.process.send_signal(signal.SIGHUP)
        await server.said("rolling restart is over")
        after = await metrics(session, server.url)
        over.set()
        await asyncio.gather(*callers)
        assert lost == []
        assert answered > 0
        assert before.isdisjoint(server.workers.values())
        assert len(server.workers) == 2
        fallen = {
            name: (number, after.get(name))
            for name, number in counted.items()
            if name.partition("{")[0].endswith(("_total", "_count", "_bucket"))
            and after.get(name, -1) < number
        }
        assert fallen == {}


async def server_counts(session: aiohttp.ClientSession, url: str, least: float) -> None:
    """Wait until requests are counted."""
    while sum(n for name, n in (await metrics(session, url)).items() if "responses_total" in name) <= least:
        pass


@pytest.mark.parametrize("number", [TERM, INT])
async def test_the_end_is_0_and_leaves_nobody(number: signal.Signals) -> None:
    """Workers and simulator end before the parent does."""
    async with running(workers=3, DRAIN_DELAY_MS="0") as server:
        family = children(server.process.pid)
        assert len(family) == 4
        server.process.send_signal(number)
        assert await server.process.wait() == 0
        assert alive(family) == set()


@pytest.mark.fault(81)
async def test_a_second_signal_cuts_the_drain_short() -> None:
    """It reaches the workers, who are otherwise patient for a minute."""
    async with running(DRAIN_DELAY_MS="60000") as server:
        server.process.send_signal(TERM)
        for _ in range(2):
            await server.said("draining")
        await asyncio.sleep(1.5 * TWINS)  # sooner it counts as the first one, sent to the whole group
        server.process.send_signal(TERM)
        assert await server.process.wait() == 0


async def test_a_signal_to_the_whole_group_is_one_signal() -> None:
    """A supervisor that signals all processes does not thereby cut the drain short."""
    at_once = "import server.serve\nserver.serve.TWINS = 60.0"  # whatever this machine makes of it
    async with running(code=at_once, DRAIN_DELAY_MS="60000") as server, aiohttp.ClientSession() as session:
        server.process.send_signal(TERM)
        for _ in range(2):
            await server.said("draining")
        for pid in server.workers.values():  # before that it might be one signal for the kernel already
            os.kill(pid, TERM)
        for _ in range(20):  # time enough for a worker that would end
            async with session.get(f"{server.url}/api/first") as response:
                assert (response.status, response.headers["Connection"]) == (200, "close")
        server.process.send_signal(INT)  # which is never taken for the same
        assert await server.process.wait() == 0


async def test_workers_end_when_their_parent_is_killed() -> None:
    """They drain, and so does nobody stay behind on the port."""
    async with running(DRAIN_DELAY_MS="0") as server:
        family = children(server.process.pid)
        server.process.kill()
        assert server.process.stderr is not None
        await server.process.stderr.read()  # ends when the last of them has let go of it
        await ended(family)
        assert alive(family) == set()


async def test_a_port_in_use_stops_it_with_1() -> None:
    """Before anything is forked."""
    async with running() as server:
        other = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", "--workers", "2", "--port", server.url.rpartition(":")[2]),
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            stdout=PIPE,
            stderr=PIPE,
        )
        _, err = await other.communicate()
    assert other.returncode == 1
    assert err.decode().startswith("HOST, PORT: cannot listen on 127.0.0.1:")
    assert err.count(b"\n") == 1


async def test_workers_that_die_at_once_are_started_ever_later() -> None:
    """The parent goes on trying, and can be stopped all the while."""
    die = "import os, server.workers\nserver.workers.create_app = lambda *_, **__: os._exit(3)"
    async with running(code=die, listens=False) as server:
        starts: list[float] = []
        while len(starts) < 8:
            line = await server.until(lambda line: re.search(r"worker \d+ started", line["message"]))
            starts.append(float(line["time"][-6:].replace(",", ".")))
        # One of the two has been replaced three times at least.
        assert (starts[-1] - starts[0]) % 60 > FIRST_DELAY * (1 + 2 + 4) - 0.01
        server.process.send_signal(TERM)
        assert await server.process.wait() == 0


async def test_auto_is_one_for_each_core_and_nonsense_is_refused() -> None:
    """As a setting, with its name in the message."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "--workers", "many"), cwd=ROOT, stdout=PIPE, stderr=PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 2
    assert err.startswith(b"WORKERS: ")
