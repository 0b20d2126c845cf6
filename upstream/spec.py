"""What we know of an upstream before we call it."""

from __future__ import annotations

from strategies import value
from upstream.breaker import BreakerOptions
from upstream.call import DEFAULT_OPERATION
from upstream.payloads import Accept, anything


@value
class UpstreamSpec:
    """
    One upstream.

    Attributes:
        name: as routes and metrics call it.
        url: where it is; a call's segments are appended to its path.
        accept: says what is wrong with the body of an answer with one of *statuses*, or None.
        timeout: seconds that one attempt may take, besides the caller's deadline; None for no such limit.
        max_body: bytes of a decoded body; beyond it the attempt fails as ``too_large``. 1 MiB by default,
            because a larger JSON document would hold the loop for tens of milliseconds while it is judged.
        operations: the kinds of calls it takes; each has a circuit of its own.
        breaker: when a circuit opens; None for no breaker.
        fair_time: seconds it must have had before being cut at a caller's deadline counts as its failure.
        retry: whether a call that met a network failure is tried once more, within the budget.
        statuses: those of an answer that may be a success.
    """

    name: str
    url: str
    accept: Accept = anything
    timeout: float | None = None
    max_body: int = 1024 * 1024
    operations: tuple[str, ...] = (DEFAULT_OPERATION,)
    breaker: BreakerOptions | None = None
    fair_time: float = 1.0
    retry: bool = False
    statuses: frozenset[int] = frozenset({200})
