"""The direct way: a plain GET of a fan-out route, answered without aiohttp's request, router and response.

Those take 60 µs of a request, more than everything else together. `server.protocol` finds the requests
that can go this way; here is what becomes of them, which is what `server.edge` makes of the others. It knows
no connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from server.edge import GONE, Edge
from server.exchange import Exchange
from server.handlers import FanOutHandler
from server.head import Head
from server.lifecycle import Lifecycle
from server.plain import PlainAnswers


class Direct:
    """
    Args:
        handlers: by path.
    """

    def __init__(
        self,
        handlers: Mapping[str, FanOutHandler],
        answers: PlainAnswers,
        edge: Edge,
        lifecycle: Lifecycle,
    ) -> None:
        self._handlers = handlers if answers.fit else {}
        self._answers = answers
        self._edge = edge
        self._lifecycle = lifecycle

    def handler(self, head: Head) -> FanOutHandler | None:
        """Whose answer it is, if it can be given directly."""
        return self._handlers.get(head.path)

    async def answer(self, handler: FanOutHandler, head: Head, arrived: float) -> tuple[bytes, bool]:
        """The whole answer, and whether it is the last one on its connection."""
        exchange = Exchange(head.request_id, arrived)
        status = GONE
        try:
            body = await handler.body(exchange, head.query)
            status = 200
            last = self._lifecycle.draining
            return self._answers.success(exchange.id, body, last), last
        except asyncio.CancelledError:
            raise
        except Exception as error:
            problem = self._edge.problem(error, exchange)
            status = problem.status
            last = self._lifecycle.draining
            return self._answers.problem(problem, exchange.id, head.path, last), last
        finally:
            self._edge.left(exchange, "GET", head.path, status)
