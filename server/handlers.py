"""From a web request to a strategy and back: the whole of what a fan-out route does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from server.asking import Asking, exchange_for
from server.errors import unmet
from server.plain import PlainAnswers
from server.routes import Route
from strategies import Request, Strategy, Verdict


def fan_out_handler(
    route: Route, strategies: Mapping[str, Strategy[Any]], asking: Asking, plain: PlainAnswers
) -> Handler:
    """
    The handler of *route*. *strategies* has the strategy of each route by its name; it is filled when the
    application starts.
    """
    ask = Request(route.name, route.targets)  # the same for every caller, so it is made once

    async def handle(request: web.Request) -> web.StreamResponse:
        exchange = exchange_for(request, route.name, route.strategy_name)
        with asking.due(request, exchange) as due:
            result = await asking.ask(exchange, strategies[route.name], ask, due)
        if result.verdict is not Verdict.SUCCESS:
            raise unmet(result, exchange.arrived, route.on_failure)
        body = route.render.body(result, asking.clock() - exchange.arrived)
        return plain.json(request, exchange.id, body)

    return handle
