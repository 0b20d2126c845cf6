"""``python -m benchmarks.event_upstream``: the simulated event service with more data, and a worse outage.

User 2 has one event, user 10 has ten and user 50 has fifty; nothing fails by chance. ``POST /benchmark/hang``
makes every route silent (``POST /simulator/down`` makes it answer 500), and ``GET /benchmark/calls`` says how
many calls have come so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal

import uvloop
from aiohttp import web
from aiohttp.typedefs import Handler

from upstream.simulator.app import serve_simulator
from upstream.simulator.events import DETAILS, EventService
from upstream.simulator.latency import parse_latency
from upstream.simulator.work import WorkModel

LARGE = (10, 50)
"""The users there are besides the simulator's: each is called by the number of its events."""


class LargeEventService(EventService):
    """
    The event service, watched from the door: every call is counted, answered or not.

    Args:
        delay: seconds that one event takes.
    """

    def __init__(self, delay: float) -> None:
        super().__init__(random.Random(1), 0.0, delay)
        self._asked = 0
        self._hanging = False

    def reset(self) -> None:
        """As it was in the beginning."""
        super().reset()
        for user in LARGE:
            ids = {number: f"event-{user}-{number}" for number in range(1, user + 1)}
            self.users[str(user)] = {
                "id": user,
                "userName": f"user{user}",
                "email": f"hello{user}@gmail.com",
                "events": list(ids.values()),
            }
            for number, one in ids.items():
                self.events[one] = {"id": number, "name": one, "userId": user, "details": DETAILS}

    def add_to(self, app: web.Application) -> None:
        """Bind the routes."""
        super().add_to(app)
        app.router.add_get("/benchmark/calls", self._tell)
        app.router.add_post("/benchmark/hang", self._hang)
        app.middlewares.append(self._meet)

    @web.middleware
    async def _meet(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.startswith(("/benchmark/", "/simulator/")):
            self._asked += 1
            if self._hanging:
                await asyncio.Event().wait()  # until the caller gives up: the server cancels handlers then
        return await handler(request)

    async def _tell(self, request: web.Request) -> web.Response:
        return web.Response(text=str(self._asked))

    async def _hang(self, request: web.Request) -> web.Response:
        self._hanging = True
        return web.Response()


async def main(port: int, delay: float) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    work = WorkModel(parse_latency("constant:0"), 0, 0, 0)
    async with serve_simulator(work, random.Random(1), "127.0.0.1", port, LargeEventService(delay)):
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.event_upstream")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=500, metavar="MS", help="what one event takes (500)")
    args = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(args.port, args.delay / 1000))
