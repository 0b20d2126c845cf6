"""``python -m benchmarks.restarts``: how many requests are lost over many rolling restarts.

Callers on kept connections, each thinking for a while between two requests, so that at any time most of the
connections are idle: those are what a server that stops may close in the face of a request. A request is
lost when it was sent on a connection that the caller could not know to be closed, and has no whole answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import select
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter

from benchmarks.callers import Callers

SERVER = {
    "SIMULATOR_LATENCY": "constant:20",
    "SIMULATOR_FAILURE": "0",
    "SIMULATOR_INVALID": "0",
    "SIMULATOR_HANG": "0",
    "ACCESS_LOG": "off",
}


class Kept(Callers):
    """Connections that are not used once the kernel knows that the server has closed them."""

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._idle = [one for one in self._idle if not closed(one[1])]
        self.reused = bool(self._idle)
        return await super()._connection()


def closed(writer: asyncio.StreamWriter) -> bool:
    """Whether the other side has hung up, even if our loop has not come round to reading that."""
    look = select.poll()
    look.register(writer.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(look.poll(0))


class Fleet:
    """Callers that go on until told to stop, and what came of their requests."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self._url = url
        self._rng = rng
        self.over = asyncio.Event()
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0

    async def caller(self, think: float) -> None:
        """Ask, think for a time that is *think* seconds on average, and ask again."""
        kept, thought = Kept(self._url), 0.0
        while not self.over.is_set():
            reply = await kept.get("/api/first?timeout=5000")
            self.statuses[reply.status] += 1
            self.slowest = max(self.slowest, reply.seconds)
            if reply.status == 0:
                how = f"after {thought:.2f} s idle" if kept.reused else "on a new connection"
                print(f"\nlost {how}, told after {reply.seconds * 1000:.1f} ms", file=sys.stderr)
            thought = self._rng.expovariate(1 / think)
            await asyncio.sleep(thought)
        kept.close()


async def said(server: Process, words: str) -> str:
    """The next line of its log with *words* in it; the address, if it has one."""
    assert server.stderr is not None
    while line := await server.stderr.readline():
        told = json.loads(line)
        if words in told["message"]:
            return str(told.get("url", ""))
    raise SystemExit("the server has ended")


async def main(given: argparse.Namespace) -> int:
    """Run it; 0 if nothing was lost."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", "--port", "0", "--workers", given.workers),
        env={**os.environ, **SERVER},
        stderr=PIPE,
    )
    try:
        fleet = Fleet(await said(server, "listening"), random.Random(given.seed))
        callers = [asyncio.ensure_future(fleet.caller(given.think)) for _ in range(given.callers)]
        started = time.monotonic()
        for number in range(1, given.restarts + 1):
            server.send_signal(signal.SIGHUP)
            await said(server, "rolling restart is over")
            print(f"\r{number}/{given.restarts} {dict(fleet.statuses)}", end="", file=sys.stderr, flush=True)
        fleet.over.set()
        await asyncio.gather(*callers)
        took = time.monotonic() - started
    finally:
        if server.returncode is None:
            server.terminate()
        await server.communicate()
    lost = fleet.statuses.pop(0, 0)
    print(file=sys.stderr)
    print(
        f"{given.restarts} rolling restarts of {given.workers} workers under {given.callers} callers, "
        f"{took:.0f} s: {fleet.statuses.total()} answered {dict(fleet.statuses)}, {lost} lost, "
        f"slowest {fleet.slowest * 1000:.0f} ms; exit code {server.returncode}"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restarts", description=__doc__)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--callers", type=int, default=300)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--think", type=float, default=1.0, help="seconds between two requests, on average")
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(asyncio.run(main(parser.parse_args())))
