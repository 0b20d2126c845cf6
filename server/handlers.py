"""From a request to a strategy and back: the whole of what a fan-out route does, whoever read the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from server.asking import Asking
from server.errors import unmet
from server.exchange import EXCHANGE, Exchange
from server.routes import Route
from strategies import Request, Strategy, Verdict


class FanOutHandler:
    """
    The handler of *route*. *strategies* has the strategy of each route by its name; it is filled when the
    application starts.
    """

    def __init__(self, route: Route, strategies: Mapping[str, Strategy[Any]], asking: Asking) -> None:
        self._route = route
        self._strategies = strategies
        self._asking = asking
        self._ask = Request(route.name, route.targets)  # the same for every caller, so it is made once

    async def body(self, exchange: Exchange, query: str) -> bytes:
        """The JSON that answers a request with this *query*; raises a `server.errors.Problem`."""
        route, asking = self._route, self._asking
        exchange.route, exchange.strategy = route.name, route.strategy_name
        with asking.due(query, exchange) as due:
            result = await asking.ask(exchange, self._strategies[route.name], self._ask, due)
        if result.verdict is not Verdict.SUCCESS:
            raise unmet(result, exchange.arrived, route.on_failure)
        return route.render.body(result, asking.clock() - exchange.arrived)

    def for_aiohttp(self) -> Handler:
        """The same as a function, for requests that aiohttp has read."""

        async def handle(request: web.Request) -> web.Response:
            body = await self.body(request[EXCHANGE], request.rel_url.raw_query_string)
            return web.Response(body=body, content_type="application/json")

        return handle
