"""The event service: its data, and how badly it treats whoever calls it.

It forgets everything when it ends. `EventService.reset` makes it forget at once, for tests.
"""

from __future__ import annotations

import asyncio
import random
from itertools import count
from typing import Any

import orjson
from aiohttp import web

DETAILS = "This is the first event"


def _users() -> dict[str, dict[str, Any]]:
    return {
        "1": {"id": 1, "userName": "user1", "email": "hello@gmail.com", "events": ["event-1", "event-3"]},
        "2": {"id": 2, "userName": "user2", "email": "hello2@gmail.com", "events": ["event-2"]},
        "3": {
            "id": 2,
            "userName": "user3",
            "email": "hello3@gmail.com",
            "events": ["event-4"],
        },  # 2, so it is
    }


def _events() -> dict[str, dict[str, Any]]:
    return {
        "event-1": {"id": 1, "name": "Event 1", "userId": 1, "details": DETAILS},
        "event-2": {"id": 1, "name": "Event 2", "userId": 2, "details": DETAILS},
        "event-3": {"id": 1, "name": "Event 1", "userId": 1, "details": DETAILS},
        "event-4": {"id": 1, "name": "Event 4", "userId": 3, "details": DETAILS},
    }


GOOD_ADDS, CYCLE = 5, 15
"""Of each 15 calls of ``addEvent`` the first 5 succeed, the others are refused after 100 ms."""
BUSY = {
    "success": False,
    "error": "Service temporarily unavailable",
    "message": "Event API is experiencing high load",
}


class EventService:
    """
    The routes of the event service.

    Args:
        rng: decides which calls are dropped.
        failure: share of ``getUsers`` and ``getEvents`` that get no answer, 0 to 1.
        delay: seconds that one event takes.
    """

    def __init__(self, rng: random.Random, failure: float = 0.05, delay: float = 0.5) -> None:
        self._rng = rng
        self.failure = failure
        self.delay = delay
        self.down = False
        """While true every route answers 500, at once: an outage for demonstrations."""
        self.calls: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """As it was in the beginning."""
        self.users, self.events = _users(), _events()
        self.calls = {}
        self._adds = count(1)
        self.down = False

    def add_to(self, app: web.Application) -> None:
        """Bind the routes."""
        app.router.add_get("/getUsers", self._get_users)
        app.router.add_get("/getUserById/{id}", self._get_user)
        app.router.add_get("/getEvents", self._get_events)
        app.router.add_get("/getEventById/{id}", self._get_event)
        app.router.add_post("/addEvent", self._add_event)
        app.router.add_post("/simulator/{order:reset|down|up}", self._order)

    async def _get_users(self, request: web.Request) -> web.Response:
        return self._counted(request, "getUsers") or _json(list(self.users.values()))

    async def _get_events(self, request: web.Request) -> web.Response:
        return self._counted(request, "getEvents") or _json(list(self.events.values()))

    async def _get_user(self, request: web.Request) -> web.Response:
        self.calls["getUserById"] = self.calls.get("getUserById", 0) + 1
        if self.down:
            return _json({"error": "down"}, 500)
        return _found(self.users.get(request.match_info["id"]))

    async def _get_event(self, request: web.Request) -> web.Response:
        self.calls["getEventById"] = self.calls.get("getEventById", 0) + 1
        if self.down:
            return _json({"error": "down"}, 500)
        await asyncio.sleep(self.delay)
        return _found(self.events.get(request.match_info["id"]))

    async def _add_event(self, request: web.Request) -> web.Response:
        self.calls["addEvent"] = self.calls.get("addEvent", 0) + 1
        event = orjson.loads(await request.read())
        if self.down:
            return _json({"success": False, "error": "down"}, 500)
        if (next(self._adds) - 1) % CYCLE >= GOOD_ADDS:
            await asyncio.sleep(0.1)
            return _json(BUSY, 503)
        user = self.users.get(str(event.get("userId")))
        if user is None:
            return _json({"success": False, "error": "no such user"}, 500)
        self.events[str(event["id"])] = event
        user["events"].append(str(event["id"]))
        return _json({"success": True})

    async def _order(self, request: web.Request) -> web.Response:
        order = request.match_info["order"]
        if order == "reset":
            self.reset()
        else:
            self.down = order == "down"
        return _json({"done": order})

    def _counted(self, request: web.Request, operation: str) -> web.Response | None:
        """Count the call; drop it if luck says so, or answer for it while the service is down."""
        self.calls[operation] = self.calls.get(operation, 0) + 1
        if self.down:
            return _json({"error": "down"}, 500)
        if self._rng.random() < self.failure and request.transport is not None:
            request.transport.abort()  # a reset, as the caller sees it
        return None


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


def _found(one: dict[str, Any] | None) -> web.Response:
    """The one asked for; an unknown id is a 200 with an empty body, as the service does it."""
    return web.Response(content_type="application/json") if one is None else _json(one)
