"""``python -m benchmarks.downloads``: what downloads cost, and what they do to the rest of the server.

One server on a core of its own, the callers and the upstream on another: how long ``initiate`` takes; how
long a thousand jobs of a second take, beside the ideal; what ``/api/first`` takes before them and while they
run; and how late events reach two thousand streams. Job store and objects are the embedded ones, rate limits
are on and out of the way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks.processes import (
    QUIET,
    RESULTS,
    BenchmarkError,
    Cores,
    Process,
    assign_cores,
    end_on_sigterm,
    free_port,
    pin,
    python,
)
from upstream.simulator.app import WORK_PATH

CALLERS = 100
JOBS, PLACES, SECONDS = 1000, 20, 1.0
"""Jobs, how many the server works on at a time, and how long each takes."""
STREAMS, FOLLOWED, FILE_SECONDS = 2000, 100, 30.0
"""Streams, the jobs that they follow, and how long a file takes on average, which reports ten times."""
API, API_SECONDS = "/api/first?timeout=1000", 20.0
AT_ONCE = 3
"""Files of a job that is followed: with as many reports, an event of each job a second."""
SPREAD = 1 / 3
"""How much shorter or longer than on average a file may take. As they do: in step they would never be."""


def upstream(cores: Cores, seconds: float, spread: float) -> tuple[str, Process]:
    """An upstream that never fails, whose files take so many *seconds*, give or take a share; its address."""
    url = f"http://127.0.0.1:{free_port()}"
    least, most = (round(seconds * (1 + part) * 1000) for part in (-spread, spread))
    never = [word for what in ("failure", "invalid", "hang") for word in (f"--{what}", "0")]
    times = ["--latency", "constant:20", "--file-delay", f"uniform:{least}-{most}"]
    command = python("upstream.simulator", "--port", url.rpartition(":")[2], *never, *times)
    process = Process(command, "downloads-upstream", core=cores.simulator)
    process.wait_for(url + WORK_PATH)
    return url, process


def server(cores: Cores, environ: Mapping[str, str]) -> tuple[str, Process]:
    """A server with those settings; its address."""
    url = f"http://127.0.0.1:{free_port()}"
    port = {"PORT": url.rpartition(":")[2]}
    process = Process(python("server"), "downloads-server", {**environ, **port}, cores.server)
    process.wait_for(f"{url}/ready", within=30.0)
    for child in process.family()[1:]:  # the embedded job store: not on the core that the server has
        pin(cores.load, child)
    return url, process


def settings(folder: str, behind: str, places: int) -> dict[str, str]:
    """*places* jobs are worked on at a time, over the upstream at *behind*."""
    return {
        **QUIET,
        "DATA_DIR": folder,
        "WORK_API_URL": behind + WORK_PATH,
        "DOWNLOAD_SOURCE_URL": behind,
        "DOWNLOAD_JOBS": str(places),
        "DOWNLOAD_JOBS_PER_CLIENT": "10000",
        "DOWNLOAD_OPEN_JOBS_PER_CLIENT": "100000",
        "RATE_LIMIT_MAX_REQUESTS": "1000000",
        "SSE_STREAMS_PER_CLIENT": "5000",
    }


@contextlib.asynccontextmanager
async def site(
    cores: Cores, seconds: float, places: int = PLACES, *, spread: float = SPREAD, apart: bool = False
) -> AsyncIterator[tuple[str, aiohttp.ClientSession, Process]]:
    """
    A server over an upstream whose files take so many *seconds*, give or take a share of *spread*, and a
    session of callers; *apart*: the work is done by a worker, on the callers' core.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        behind, source = upstream(cores, seconds, spread)
        stack.callback(source.stop)
        environ = settings(folder, behind, places)
        url, process = server(cores, {**environ, "DOWNLOAD_WORKERS": "off" if apart else "on"})
        stack.callback(process.stop)
        if apart:
            worker = Process(python("server", "worker"), "downloads-worker", environ, cores.load)
            stack.callback(worker.stop)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout()) as session:
            yield url, session, process


async def initiate(session: aiohttp.ClientSession, url: str, files: int = 1) -> str:
    """A new job of so many files, picked at random; its id."""
    ids = random.sample(range(70_000, 7_000_000, 7), files)
    async with session.post(f"{url}/v1/download/initiate", json={"file_ids": ids}) as answer:
        if answer.status != 200:
            raise BenchmarkError(f"initiate: {answer.status} {await answer.text()}")
        told = await answer.json()
        return str(told["jobId"])


async def many(session: aiohttp.ClientSession, url: str, number: int) -> list[str]:
    """So many jobs, from `CALLERS` at a time; their ids."""
    gate = asyncio.Semaphore(CALLERS)

    async def one() -> str:
        async with gate:
            return await initiate(session, url)

    return await asyncio.gather(*(one() for _ in range(number)))


async def timed(act: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds that *act* takes."""
    began = time.perf_counter()
    await act()
    return (time.perf_counter() - began) * 1000


async def hammer(
    act: Callable[[], Awaitable[object]], callers: int, seconds: float, think: float = 0.0
) -> list[float]:
    """
    Milliseconds of each of the calls that so many *callers* make, each one after the other; between two calls
    each of them waits for about *think* seconds.
    """
    until = time.perf_counter() + seconds
    took: list[float] = []

    async def caller() -> None:
        while time.perf_counter() < until:
            await asyncio.sleep(random.uniform(0.5, 1.5) * think)
            took.append(await timed(act))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return took


async def get(session: aiohttp.ClientSession, address: str, refused: list[int]) -> None:
    """A call of which the answer is read; *refused* gets the status if it is not 200."""
    async with session.get(address) as answer:
        await answer.read()
        if answer.status != 200:
            refused.append(answer.status)


async def of_initiate(cores: Cores, seconds: float) -> dict[str, float]:
    """How long it takes with `CALLERS` callers: who ask once a second, and who ask without a pause."""
    async with site(cores, 600.0) as (url, session, process):
        await initiate(session, url)
        calm = await hammer(lambda: initiate(session, url), CALLERS, seconds, think=1.0)
        before = process.cpu_seconds()
        full = await hammer(lambda: initiate(session, url), CALLERS, seconds)
        cpu = process.cpu_seconds() - before
    return {
        **{f"calm_{name}": number for name, number in spread(calm).items()},
        **{f"full_{name}": number for name, number in spread(full).items()},
        "full_per_second": len(full) / seconds,
        "full_cpu_ms_each": cpu / len(full) * 1000,
    }


async def of_jobs(cores: Cores) -> dict[str, float]:
    """How long `JOBS` of them take, `PLACES` at a time."""
    async with site(cores, SECONDS, PLACES, spread=0.0) as (url, session, process):
        await initiate(session, url)
        before, began = process.cpu_seconds(), time.perf_counter()
        ids = await many(session, url, JOBS)
        accepted = time.perf_counter() - began
        failed = await all_ended(session, url, ids)
        took, cpu = time.perf_counter() - began, process.cpu_seconds() - before
        peak = process.memory_mb()[1]
    ideal = JOBS / PLACES * SECONDS
    return {
        "accepted_s": accepted,
        "took_s": took,
        "to_ideal": took / ideal,
        "cpu_ms_each": cpu / JOBS * 1000,
        "failed": failed,
        "peak_mb": peak,
    }


async def of_api(cores: Cores) -> dict[str, float]:
    """What `API` takes for 20 callers, alone, and while `JOBS` jobs of about a minute are all under way."""
    here, apart = await beside_jobs(cores, apart=False), await beside_jobs(cores, apart=True)
    return {**here, **{f"apart_{name}": number for name, number in apart.items()}}


async def beside_jobs(cores: Cores, *, apart: bool) -> dict[str, float]:
    """The same, with the work in the server or in a worker of its own."""
    async with site(cores, 60.0, JOBS, apart=apart) as (url, session, process):
        refused: list[int] = []
        alone = await hammer(lambda: get(session, url + API, refused), 20, API_SECONDS)
        await many(session, url, JOBS)
        await asyncio.sleep(3.0)
        before = process.cpu_seconds()
        await asyncio.sleep(5.0)
        core_of_jobs = (process.cpu_seconds() - before) / 5.0
        refused.clear()
        beside = await hammer(lambda: get(session, url + API, refused), 20, API_SECONDS)
    return {
        **{f"alone_{name}": number for name, number in spread(alone).items()},
        **{f"beside_{name}": number for name, number in spread(beside).items()},
        "refused": len(refused),
        "core_of_jobs": core_of_jobs,
    }


async def all_ended(session: aiohttp.ClientSession, url: str, ids: list[str]) -> int:
    """Wait until all jobs have ended, by asking for the last ones; how many did not complete."""
    failed = 0
    for job_id in reversed(ids):
        while True:
            async with session.get(f"{url}/v1/download/status/{job_id}") as answer:
                told = await answer.json()
            if told["endedAt"]:
                failed += told["status"] != "completed"
                break
            await asyncio.sleep(0.2)
    return failed


async def of_streams(cores: Cores) -> dict[str, float]:
    """How late events reach `STREAMS` streams, by the time in their ids, once all are open."""
    late: list[float] = []
    ends = 0
    gate = asyncio.Semaphore(CALLERS)

    async def follow(session: aiohttp.ClientSession, address: str, opened: asyncio.Future[None]) -> None:
        nonlocal ends
        async with gate:
            answer = await session.get(address)
        if answer.status != 200:
            raise BenchmarkError(f"{address}: {answer.status}")
        opened.set_result(None)
        async for line in answer.content:
            if line.startswith(b"id: "):
                late.append(time.time() * 1000 - int(line[4:].partition(b"-")[0]))
            elif line.startswith(b"event: completed"):
                ends += 1

    async with site(cores, FILE_SECONDS, FOLLOWED) as (url, session, process):
        ids = []
        for _ in range(FOLLOWED):  # spread over the time of a report, or all would come in one instant
            ids.append(await initiate(session, url, AT_ONCE))
            await asyncio.sleep(FILE_SECONDS / 10 / FOLLOWED)
        open_now = [asyncio.get_running_loop().create_future() for _ in range(STREAMS)]
        following = [
            asyncio.create_task(follow(session, f"{url}/v1/download/subscribe/{ids[number % FOLLOWED]}", one))
            for number, one in enumerate(open_now)
        ]
        await asyncio.gather(*open_now)
        await asyncio.sleep(2.0)  # what was before they came is told late, and is not late
        late.clear()
        before, began = process.cpu_seconds(), time.perf_counter()
        await asyncio.gather(*following)
        cpu, took = process.cpu_seconds() - before, time.perf_counter() - began
        peak = process.memory_mb()[1]
    return {
        **spread(late),
        "per_second": len(late) / took,
        "core": cpu / took,
        "streams_ended": ends,
        "peak_mb": peak,
    }


def spread(took: list[float]) -> dict[str, float]:
    """Median and tail, in milliseconds."""
    cuts = statistics.quantiles(took, n=100)
    return {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(took)}


def main() -> None:
    """Measure, print, and keep the figures in ``benchmarks/.results/downloads.json``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.downloads", description=__doc__)
    parser.add_argument("sections", nargs="*", help="initiate, jobs, api, streams; all if none is named")
    parser.add_argument("--seconds", type=float, default=8.0, help="of initiating (%(default)s)")
    arguments = parser.parse_args()
    end_on_sigterm()
    cores = assign_cores()
    pin(cores.load)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = {}
        sections: dict[str, Callable[[Cores], Coroutine[Any, Any, dict[str, float]]]] = {
            "initiate": partial(of_initiate, seconds=arguments.seconds),
            "jobs": of_jobs,
            "api": of_api,
            "streams": of_streams,
        }
        for name, measure in sections.items():
            if not arguments.sections or name in arguments.sections:
                found[name] = numbers = runner.run(measure(cores))
                print(name)
                for number, what in numbers.items():
                    print(f"  {number:22} {what:10.2f}", flush=True)
    Path(RESULTS / "downloads.json").write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
