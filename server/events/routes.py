"""Where the event API is served, and what its documentation says."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from marshmallow import Schema

from server.asking import Asking
from server.errors import MEDIA_TYPE
from server.events.handlers import UPSTREAM, EventHandlers
from server.events.schemas import (
    AddedSchema,
    AddEventSchema,
    EventSchema,
    UnavailableSchema,
    UserPathSchema,
    UserSchema,
)
from server.openapi import Reply, document, problem
from strategies import AllOptions, AllStrategy, Fetch, FirstStrategy, NoOptions, Reaper, Strategy

SINGLE, GATHER = "events.single", "events.gather"


def event_strategies(fetch: Fetch, reaper: Reaper, concurrency: int) -> dict[str, Strategy[Any]]:
    """The strategies that the event API is made of, by name."""
    return {
        SINGLE: FirstStrategy(fetch, reaper, NoOptions()),
        GATHER: AllStrategy(fetch, reaper, AllOptions(concurrency=concurrency, fail_fast=True)),
    }


def add_event_routes(
    app: web.Application, strategies: dict[str, Strategy[Any]], asking: Asking, query: type[Schema]
) -> None:
    """Bind the event API to *app*; *strategies* is filled when the application starts."""
    handlers = EventHandlers(asking, lambda: strategies[SINGLE], lambda: strategies[GATHER])
    failures = {
        400: problem("A parameter or the body is not valid; `errors` says which and why."),
        502: problem("The event service failed."),
        503: Reply(
            "The circuit is open (no call was made), or the event service says that it is unavailable.",
            UnavailableSchema,
            None,
            MEDIA_TYPE,
            ("Retry-After",),
        ),
        504: problem("The event service did not answer within the timeout."),
    }
    add = app.router
    add.add_get(
        "/getUsers",
        document(
            handlers.listing("getUsers", "getUsers"),
            tag=UPSTREAM,
            summary="All users.",
            query=query,
            replies={200: Reply("The users.", UserSchema(many=True)), **failures},
        ),
    )
    add.add_get(
        "/getEvents",
        document(
            handlers.listing("getEvents", "getEvents"),
            tag=UPSTREAM,
            summary="All events.",
            query=query,
            replies={200: Reply("The events.", EventSchema(many=True)), **failures},
        ),
    )

    async def events_of_user(request: web.Request) -> web.StreamResponse:
        return await handlers.events_of_user(request)

    add.add_get(
        "/getEventsByUserId/{id}",
        document(
            events_of_user,
            tag=UPSTREAM,
            summary="A user's events, fetched in parallel, in the order of the user's list.",
            query=query,
            path=UserPathSchema,
            replies={
                200: Reply("The events.", EventSchema(many=True)),
                404: problem("There is no such user."),
                **failures,
            },
        ),
    )

    async def add_event(request: web.Request) -> web.StreamResponse:
        return await handlers.add_event(request)

    add.add_post(
        "/addEvent",
        document(
            add_event,
            tag=UPSTREAM,
            summary="Add an event. It is never retried.",
            query=query,
            body=AddEventSchema,
            replies={
                200: Reply("The event service's answer.", AddedSchema),
                413: problem("The body is larger than 1 MiB."),
                415: problem("The body is not `application/json`."),
                **failures,
            },
        ),
    )
