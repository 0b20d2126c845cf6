"""The four routes of the event API. Each is a line or two of policy over the strategies of the core."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from server.asking import Asking, exchange_for
from server.bodies import read_json, valid
from server.errors import Problem
from server.events.failures import problem_of
from server.events.schemas import AddEventSchema, UserPathSchema
from server.exchange import Exchange
from strategies import Deadline, Request, Result, Strategy, Target, Verdict
from upstream.call import Answer, Call

UPSTREAM = "events"
OPERATIONS = ("getUsers", "getUserById", "getEvents", "getEventById", "addEvent")
"""The kinds of calls it is asked for; its entry in the route table has to list them."""

One: TypeAlias = Callable[[], Strategy[Any]]
"""Gives a strategy once the application has started."""


class EventHandlers:
    """
    Args:
        asking: the manners of asking, shared with all routes.
        single: asks one target once.
        gather: asks all targets, bounded in number, and ends at the first failure.
        new_id: makes the id of a new event, never the same twice.
    """

    def __init__(
        self,
        asking: Asking,
        single: One,
        gather: One,
        new_id: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._asking = asking
        self._single = single
        self._gather = gather
        self._new_id = new_id

    def listing(self, route: str, operation: str) -> Handler:
        """A handler that hands on the array that *operation* gives."""
        ask = Request(route, (_target(operation),))

        async def handle(request: web.Request) -> web.Response:
            exchange = exchange_for(request, route, "first")
            with self._asking.due(request.rel_url.raw_query_string, exchange) as due:
                answer = await self._one(exchange, ask, due)
            if not answer.body.lstrip().startswith(b"["):
                raise Problem(502, "invalid_payload", "The event service did not answer with an array.")
            return _json(answer.body)

        return handle

    async def events_of_user(self, request: web.Request) -> web.Response:
        """The user's events, fetched at once, in the order of the user's list; all of them or none."""
        route = "getEventsByUserId"
        exchange = exchange_for(request, route, "all")
        user_id = valid(UserPathSchema, dict(request.match_info))["id"]
        with self._asking.due(request.rel_url.raw_query_string, exchange) as due:
            found = await self._one(exchange, Request(route, (_target("getUserById", user_id),)), due)
            if not found.body:
                raise Problem(404, "not_found", "There is no such user.")
            targets = tuple(_target("getEventById", one) for one in _event_ids(found.body))
            if not targets:
                return _json(b"[]")
            gathered = await self._asking.ask(exchange, self._gather(), Request(route, targets), due)
        bodies = [answer.body for answer in _answers(gathered, exchange)]
        if not all(bodies):
            raise Problem(502, "no_success", "The event service has lost an event of this user.")
        return _json(b"[%b]" % b",".join(bodies))

    async def add_event(self, request: web.Request) -> web.Response:
        """Hand on a new event, once: it is neither retried nor hedged, since it could then exist twice."""
        route = "addEvent"
        exchange = exchange_for(request, route, "first")
        event = valid(AddEventSchema, await read_json(request))
        body = orjson.dumps({"id": self._new_id(), **event})
        ask = Request(route, (Target(UPSTREAM, Call("POST", ("addEvent",), body, "addEvent")),))
        with self._asking.due(request.rel_url.raw_query_string, exchange) as due:
            return _json((await self._one(exchange, ask, due)).body)

    async def _one(self, exchange: Exchange, ask: Request, due: Deadline) -> Answer:
        [answer] = _answers(await self._asking.ask(exchange, self._single(), ask, due), exchange)
        return answer


def _target(operation: str, *segments: str) -> Target:
    return Target(UPSTREAM, Call("GET", (operation, *segments), None, operation))


def _answers(result: Result, exchange: Exchange) -> list[Answer]:
    """The answers of a met result; otherwise the problem is raised."""
    if result.verdict is not Verdict.SUCCESS:
        raise problem_of(result, exchange.arrived)
    return [cast(Answer, answered.value) for answered in result.answers]


_EVENT_ID = re.compile(r"[^\x00-\x1f/\\]{1,256}")
MOST_EVENTS = 10_000


def _event_ids(body: bytes) -> list[str]:
    """The ids in a user's list. What an upstream says is input like any other, and is not trusted."""
    user = orjson.loads(body)
    listed = user.get("events") if isinstance(user, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST_EVENTS:
        raise Problem(502, "invalid_payload", "The event service has no usable list of this user's events.")
    ids = [str(one) for one in listed if isinstance(one, (str, int)) and not isinstance(one, bool)]
    if len(ids) != len(listed) or not all(_EVENT_ID.fullmatch(one) and one.strip(".") for one in ids):
        raise Problem(502, "invalid_payload", "The event service lists an event id that cannot be one.")
    return ids


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")
