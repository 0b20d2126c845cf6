"""What callers of the event API are told when the event service fails, or is given a rest."""

from __future__ import annotations

import math
from typing import Any, cast

import orjson

from server.errors import Problem, describe
from strategies import Answered, Failed, Outcome, Rejected, Result
from upstream.call import Answer

UNAVAILABLE = "Service temporarily unavailable"


def problem_of(result: Result, arrived: float) -> Problem:
    """The problem for a result whose rule was not met: the first failure that is not a consequence speaks."""
    attempts = [describe(outcome, arrived) for outcome in result.outcomes]
    for outcome in result.outcomes:
        if isinstance(outcome, Rejected):
            return _refused(outcome, attempts)
    if result.expired or not result.outcomes:
        return Problem(
            504, "timeout", "The timeout came before the event service answered.", attempts=attempts
        )
    for outcome in result.outcomes:
        if isinstance(outcome, Answered) and cast(Answer, outcome.value).status == 503:
            return _passed_on(cast(Answer, outcome.value), attempts)
    failed = next((one for one in result.outcomes if one.reason not in ("success", "cancelled")), None)
    if failed is not None and failed.reason == "timeout":
        return Problem(504, "timeout", "The event service did not answer in time.", attempts=attempts)
    return Problem(502, "no_success", f"The event service failed: {_words(failed)}.", attempts=attempts)


def _refused(outcome: Rejected, attempts: list[dict[str, Any]]) -> Problem:
    """The circuit is open. *detail* has the state in our words; existing clients read it in capitals."""
    seconds = max(1, math.ceil(outcome.retry_after or 0))
    message = "Event service is currently experiencing issues. Please try again later."
    return Problem(
        503,
        outcome.reason,
        message,
        headers={"Retry-After": str(seconds)},
        success=False,
        error=UNAVAILABLE,
        message=message,
        retryAfter=seconds,
        circuitBreakerState=outcome.detail.upper(),
        attempts=attempts,
    )


def _passed_on(answer: Answer, attempts: list[dict[str, Any]]) -> Problem:
    """An upstream's 503, with the fields of its body; ours stay where both have one of the same name."""
    try:
        fields = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        fields = None
    kept = fields if isinstance(fields, dict) else {}
    retry_after = answer.headers.get("Retry-After", "")
    headers = {"Retry-After": retry_after} if retry_after.isascii() and retry_after.isdigit() else {}
    ours = {"type", "title", "status", "detail", "instance", "code", "requestId", "attempts"}
    members = {"success": False, **{name: one for name, one in kept.items() if name not in ours}}
    detail = "The event service is unavailable."
    return Problem(503, "upstream_unavailable", detail, headers=headers, **members, attempts=attempts)


def _words(outcome: Outcome | None) -> str:
    if outcome is None:
        return "nobody knows why"
    return outcome.reason if isinstance(outcome, Failed) else outcome.detail or outcome.reason
