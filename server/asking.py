"""What every handler that asks an upstream does alike: when the answer is due, and what is noted of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web
from prometheus_async.aio import track_inprogress

from server.exchange import EXCHANGE, Exchange
from server.reserve import Appointments
from server.telemetry import Telemetry
from strategies import Deadline, Request, Result, Strategy


class Asking:
    """
    Args:
        timeout_of: the timeout in seconds from a raw query string; raises `server.errors.Problem`.
        appointments: when to have the answer, so that it is written in time.
        clock: the loop's, exact.
    """

    def __init__(
        self,
        timeout_of: Callable[[str], float],
        appointments: Appointments,
        telemetry: Telemetry,
        clock: Callable[[], float],
    ) -> None:
        self._timeout_of = timeout_of
        self._appointments = appointments
        self._telemetry = telemetry
        self.clock = clock

    @contextmanager
    def due(self, request: web.Request, exchange: Exchange) -> Iterator[Deadline]:
        """When the strategies of this request must have ended. Raises a `Problem` for a bad ``timeout``."""
        seconds = self._timeout_of(request.rel_url.raw_query_string)
        exchange.due = Deadline(exchange.arrived + seconds)
        at, slot = self._appointments.take(exchange.due.at, seconds)
        try:
            yield Deadline(at)
        finally:
            self._appointments.give_back(slot)

    async def ask(
        self, exchange: Exchange, strategy: Strategy[Any], request: Request, due: Deadline
    ) -> Result:
        """Run *strategy*, and note what it came to."""
        in_flight = self._telemetry.in_flight(request.route)
        result = await track_inprogress(in_flight, strategy.execute(request, due))
        exchange.outcomes += result.outcomes
        exchange.winner = result.winner
        self._telemetry.fan_out(request.route, result, exchange.due.at - self.clock())
        return result


def exchange_for(request: web.Request, route: str, strategy: str | None = None) -> Exchange:
    """The exchange of *request*, told which route it is on."""
    exchange = request[EXCHANGE]
    exchange.route, exchange.strategy = route, strategy
    return exchange
