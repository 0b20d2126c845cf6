"""``python -m upstream.simulator``: the unreliable upstreams on a port of their own."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import random
import signal

import uvloop

from upstream.simulator.app import WORK_PATH, serve_simulator
from upstream.simulator.events import EventService
from upstream.simulator.files import FileService
from upstream.simulator.latency import FORMS, Latency, parse_latency
from upstream.simulator.work import WorkModel

log = logging.getLogger("hedgerow.simulator")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m upstream.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--latency", default="uniform:100-600", help=FORMS)
    parser.add_argument("--failure", type=float, default=0.05, help="share of 500s, 0 to 1")
    parser.add_argument("--invalid", type=float, default=0.025, help="share of invalid bodies, 0 to 1")
    parser.add_argument("--hang", type=float, default=0.025, help="share of requests never answered, 0 to 1")
    parser.add_argument("--event-failure", type=float, default=0.05, help="share of dropped event calls")
    parser.add_argument("--event-delay", type=float, default=500, help="milliseconds that one event takes")
    parser.add_argument(
        "--file-delay", default="uniform:10000-120000", help="what a file takes; as --latency"
    )
    parser.add_argument("--seed", type=int, default=None, help="the same luck every time")
    return parser.parse_args(argv)


async def main(arguments: argparse.Namespace, work: WorkModel, file_delay: Latency) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    rng = random.Random(arguments.seed)
    events = EventService(rng, arguments.event_failure, arguments.event_delay / 1000)
    files = FileService(rng, file_delay)
    async with serve_simulator(work, rng, arguments.host, arguments.port, events, files) as url:
        log.info("WORK_API_URL=%s%s EVENT_API_BASE_URL=%s DOWNLOAD_SOURCE_URL=%s", url, WORK_PATH, url, url)
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse()
    try:
        model = WorkModel(parse_latency(args.latency), args.failure, args.invalid, args.hang)
        slowness = parse_latency(args.file_delay)
    except ValueError as error:
        raise SystemExit(f"simulator: {error}") from None
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(args, model, slowness))
