"""One JSON line per request: who (by id), which route, what came of it, and what each attempt did.

It says nothing that a caller may have meant to keep secret: no query, no header but the request id, no body.
"""

from __future__ import annotations

import logging
from typing import Any

from server.errors import describe
from server.exchange import Exchange

log = logging.getLogger("hedgerow.access")

QUIET = frozenset({"health", "ready", "metrics"})
"""Routes that probes ask every few seconds: logged only when they fail."""


class AccessLog:
    """
    Args:
        mode: ``all``, ``errors`` (statuses from 400 on) or ``off``.
    """

    def __init__(self, mode: str) -> None:
        self._least = {"all": 0, "errors": 400, "off": 1000}[mode]

    def __call__(self, exchange: Exchange, method: str, path: str, status: int, seconds: float) -> None:
        """Write the line, if the mode wants it."""
        if status < self._least or (exchange.route in QUIET and status < 400):
            return
        line: dict[str, Any] = {
            "requestId": exchange.id,
            "method": method,
            "path": path,
            "route": exchange.route,
            "status": status,
            "outcome": exchange.reason,
            "ms": round(seconds * 1000, 1),
        }
        if exchange.strategy is not None:
            line["strategy"] = exchange.strategy
        if exchange.outcomes:
            line["attempts"] = [
                describe(outcome, exchange.arrived, private=True) for outcome in exchange.outcomes
            ]
        if exchange.winner is not None:
            line["winner"] = exchange.winner.attempt.number
        log.log(logging.INFO if status < 500 else logging.WARNING, "request", extra=line)
