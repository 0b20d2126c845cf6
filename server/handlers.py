"""From a web request to a strategy and back: the whole of what a fan-out route does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_async.aio import track_inprogress

from server.errors import unmet
from server.exchange import EXCHANGE
from server.routes import Route
from server.telemetry import Telemetry
from strategies import Deadline, Request, Strategy, Verdict


def fan_out_handler(
    route: Route,
    strategies: Mapping[str, Strategy[Any]],
    timeout_of: Callable[[str], float],
    reserve: Callable[[float], float],
    telemetry: Telemetry,
    clock: Callable[[], float],
) -> Handler:
    """
    The handler of *route*.

    Args:
        strategies: the strategy of each route by its name; filled when the application starts.
        timeout_of: the timeout in seconds from the raw query string; raises `server.errors.Problem`.
        reserve: how many of those seconds to keep for writing the answer.
    """
    in_flight = telemetry.requests_in_flight.labels(route.name)
    ask = Request(route.name, route.targets)  # the same for every caller, so it is made once

    async def handle(request: web.Request) -> web.Response:
        exchange = request[EXCHANGE]
        exchange.route, exchange.strategy = route.name, route.strategy_name
        seconds = timeout_of(request.rel_url.raw_query_string)
        due = Deadline(exchange.arrived + seconds)
        story = strategies[route.name].execute(ask, due.reserve(reserve(seconds)))
        result = await track_inprogress(in_flight, story)
        exchange.result = result
        now = clock()
        telemetry.fan_out(route.name, result, due.at - now)
        if result.verdict is not Verdict.SUCCESS:
            raise unmet(result, exchange.arrived, route.on_failure)
        body = route.render.body(result, now - exchange.arrived)
        return web.Response(body=body, content_type="application/json")

    return handle
