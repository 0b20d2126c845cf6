"""``python -m benchmarks.tracing``: what traces cost the server, in CPU for each request and in memory.

One server after another on a core of its own, with and without a collector, in turns: the machine's moods
fall on all alike. The collector and the callers are here, on another core. CPU is the server process's own,
so the thread that sends is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.downloads import get
from benchmarks.processes import (
    QUIET,
    BenchmarkError,
    Cores,
    Process,
    assign_cores,
    end_on_sigterm,
    free_port,
    pin,
    python,
)

REQUESTS, CONNECTIONS = 6000, 8
API = "/api/all?timeout=1000"
"""Two attempts at an upstream, so three spans."""


@contextlib.asynccontextmanager
async def collector(*, answers: bool) -> AsyncIterator[str]:
    """Its URL; it takes all, or never says that it has."""

    async def take(request: web.Request) -> web.Response:
        async for _ in request.content.iter_any():
            pass
        if not answers:
            await asyncio.Event().wait()
        return web.Response(content_type="application/x-protobuf")

    app = web.Application(handler_args={"handler_cancellation": True})
    app.router.add_post("/v1/traces", take)
    async with TestServer(app, shutdown_timeout=0.0) as server:
        yield str(server.make_url("/"))


async def measure(cores: Cores, environ: dict[str, str]) -> tuple[float, float]:
    """Milliseconds of CPU for each request, and MB at the peak."""
    url = f"http://127.0.0.1:{free_port()}"
    settings = {
        "PORT": url.rpartition(":")[2],
        "DOWNLOADS": "off",
        "LOAD_SHEDDING": "off",
        "SIMULATOR_LATENCY": "constant:1",
        "SIMULATOR_FAILURE": "0",
        "SIMULATOR_INVALID": "0",
        "SIMULATOR_HANG": "0",
    }
    process = Process(python("server"), "tracing-server", {**QUIET, **settings, **environ}, cores.server)
    try:
        await asyncio.to_thread(process.wait_for, f"{url}/ready")
        async with aiohttp.ClientSession() as session:
            refused: list[int] = []

            async def caller(requests: int) -> None:
                for _ in range(requests):
                    await get(session, url + API, refused)

            await asyncio.gather(*(caller(50) for _ in range(CONNECTIONS)))
            before = process.cpu_seconds()
            await asyncio.gather(*(caller(REQUESTS // CONNECTIONS) for _ in range(CONNECTIONS)))
            cpu = process.cpu_seconds() - before
        if refused:
            raise BenchmarkError(f"{len(refused)} requests were answered with {refused[0]}")
        return cpu / REQUESTS * 1000, process.memory_mb()[1]
    finally:
        await asyncio.to_thread(process.stop)


async def run(cores: Cores, rounds: int) -> None:
    """Measure all in turns, and print the medians."""
    async with collector(answers=True) as good, collector(answers=False) as hanging:
        kinds = {
            "off": {},
            "all": {"OTEL_EXPORTER_OTLP_ENDPOINT": good},
            "one in a hundred": {"OTEL_EXPORTER_OTLP_ENDPOINT": good, "OTEL_TRACES_SAMPLER_ARG": "0.01"},
            "all, and the collector hangs": {"OTEL_EXPORTER_OTLP_ENDPOINT": hanging},
        }
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, environ in kinds.items():
                found[kind].append(await measure(cores, environ))
    off = statistics.median(cpu for cpu, _ in found["off"])
    for kind, measured in found.items():
        cpus = sorted(cpu for cpu, _ in measured)
        median = statistics.median(cpus)
        peak = max(memory for _, memory in measured)
        print(
            f"{kind:30} {median:.2f} ms ({cpus[0]:.2f} to {cpus[-1]:.2f}), {median / off:.1f}x, {peak:.0f} MB"
        )


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tracing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=4, help="(%(default)s)")
    arguments = parser.parse_args()
    end_on_sigterm()
    cores = assign_cores()
    pin(cores.load)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(cores, arguments.rounds))


if __name__ == "__main__":
    main()
