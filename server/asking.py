"""What every handler that asks an upstream does alike: when the answer is due, and what is noted of it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

from aiohttp import web

from server.exchange import EXCHANGE, Exchange
from server.reserve import Appointments
from server.telemetry import Telemetry
from strategies import Deadline, Request, Result, Strategy


class Due:
    """A context manager: inside it an appointment is kept, and its value is the deadline that it makes."""

    __slots__ = ("_appointments", "_deadline", "_slot")

    def __init__(self, appointments: Appointments, at: float, seconds: float) -> None:
        self._appointments = appointments
        latest, self._slot = appointments.take(at, seconds)
        self._deadline = Deadline(latest)

    def __enter__(self) -> Deadline:
        return self._deadline

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._appointments.give_back(self._slot)


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

    def due(self, query: str, exchange: Exchange) -> Due:
        """When the strategies of this request must have ended. Raises a `Problem` for a bad ``timeout``."""
        seconds = self._timeout_of(query)
        exchange.due = Deadline(exchange.arrived + seconds)
        return Due(self._appointments, exchange.due.at, seconds)

    async def ask(
        self, exchange: Exchange, strategy: Strategy[Any], request: Request, due: Deadline
    ) -> Result:
        """Run *strategy*, and note what it came to."""
        telemetry = self._telemetry
        telemetry.asking(request.route)
        try:
            result = await strategy.execute(request, due)
        finally:
            telemetry.asked(request.route)
        exchange.outcomes += result.outcomes
        exchange.winner = result.winner
        telemetry.fan_out(request.route, result, exchange.due.at - self.clock())
        return result


def exchange_for(request: web.Request, route: str, strategy: str | None = None) -> Exchange:
    """The exchange of *request*, told which route it is on."""
    exchange = request[EXCHANGE]
    exchange.route, exchange.strategy = route, strategy
    return exchange
