"""Everything that goes wrong, as one document: RFC 9457, with the members that older callers read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any

import orjson
from aiohttp import web

from strategies import Failed, Outcome, Rejected, Result

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """
    An answer that is an error.

    Args:
        status: the HTTP status.
        code: one word for programs (``timeout``, ``validation``, …), also the reason in metrics and log.
        detail: one sentence for people.
        headers, members: more headers and members of the document.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}
        self.members = members


MOST_TOLD = 20
"""Fields that are named in one document; who sends a hundred thousand wrong ones gets no list of them."""
LONGEST_NAME = 100
"""Characters of a field's name that are repeated."""


def invalid(errors: Mapping[str, list[str]]) -> Problem:
    """A 400 that names each field, up to `MOST_TOLD`, and what it must be."""
    errors = {field[:LONGEST_NAME]: messages for field, messages in islice(errors.items(), MOST_TOLD)}
    detail = "; ".join(f"{field}: {' '.join(messages)}" for field, messages in errors.items())
    return Problem(400, "validation", detail, errors=errors)


def unmet(result: Result, arrived: float, status: int) -> Problem:
    """The problem of a route whose strategy's rule was not met, with what each attempt did and when."""
    code, detail = _why(result)
    waits = [one.retry_after for one in result.outcomes if isinstance(one, Rejected) and one.retry_after]
    headers = {"Retry-After": str(math.ceil(min(waits)))} if waits else None
    attempts = [describe(outcome, arrived) for outcome in result.outcomes]
    return Problem(status, code, detail, headers=headers, attempts=attempts)


def _why(result: Result) -> tuple[str, str]:
    outcomes = result.outcomes
    if result.expired or not outcomes:
        return "timeout", "The timeout came before the upstream gave what this route needs."
    if all(isinstance(outcome, Rejected) for outcome in outcomes):
        return outcomes[0].reason, "No attempt could be made."
    return "no_success", "Every attempt ended, and none of them with a success."


def describe(outcome: Outcome, arrived: float, *, private: bool = False) -> dict[str, Any]:
    """
    What one attempt did and when, in milliseconds since the request came.

    The detail of a failure on the wire names hosts and ports of ours: only a *private* reader is told.
    """
    told: dict[str, Any] = {
        "attempt": outcome.attempt.number,
        "upstream": outcome.attempt.target.upstream,
        "outcome": outcome.reason,
        "startedMs": _since(arrived, outcome.started),
        "endedMs": _since(arrived, outcome.ended),
    }
    if outcome.detail and (private or not isinstance(outcome, Failed)):
        told["detail"] = outcome.detail
    return told


def _since(arrived: float, moment: float) -> int:
    """uvloop's own clock is cut to milliseconds and may be a hair behind the exact one."""
    return max(0, round((moment - arrived) * 1000))


def document(problem: Problem, request_id: str, instance: str) -> bytes:
    """The JSON that tells *problem*. *instance* is the path that was asked for."""
    title = HTTPStatus(problem.status).phrase
    members = {
        "type": "about:blank",
        "title": title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        "code": problem.code,
        "error": title,
        "message": problem.detail,
        "requestId": request_id,
        **problem.members,
    }
    return orjson.dumps(members)


def respond(problem: Problem, request_id: str, instance: str) -> web.Response:
    """The response that tells *problem*."""
    return web.Response(
        body=document(problem, request_id, instance),
        status=problem.status,
        content_type=MEDIA_TYPE,
        headers=problem.headers,
    )


_HTTP: Mapping[int, tuple[str, str]] = {
    404: ("not_found", "There is nothing at this path."),
    405: ("method_not_allowed", "This path does not answer that method; 'Allow' lists those it does."),
    413: ("too_large", "The body is larger than this route takes."),
    415: ("unsupported_media_type", "The body must be application/json."),
    417: ("expectation_failed", "The only expectation understood is 100-continue."),
}


def from_http(error: web.HTTPException) -> Problem:
    """The problem for an error that aiohttp raised, with the headers that belong to it, such as ``Allow``."""
    code, detail = _HTTP.get(error.status, ("http_error", HTTPStatus(error.status).phrase))
    kept = {
        name: text for name, text in error.headers.items() if name in ("Allow", "Location", "Retry-After")
    }
    return Problem(error.status, code, detail, headers=kept)
