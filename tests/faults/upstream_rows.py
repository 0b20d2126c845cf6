"""Rows 37 to 79 of the fault list: what networks, upstreams, policies and overload do, and what must hold.

Each row includes what is not repeated: an answer by the deadline, no traceback in the log, nothing left
behind (tasks, connections, descriptors), and a next request that knows nothing of it. A test says by its
marker ``fault(n)`` that it shows row n; `tests/faults/test_catalogue.py` sees that none is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

ROWS: Mapping[int, str] = {
    # D. Upstream, network
    37: "A refused connection is a `connect_error`, at once.",
    38: "An address that answers nothing is a `timeout` at the deadline, and the half-made "
    "connection is closed.",
    39: "A reset on connecting, on the request and in the body is a `reset`.",
    40: "A connection that is closed right after it was accepted is a `reset`.",
    41: "An idle connection that the upstream has closed meanwhile costs one retry at most, where "
    "retries are on.",
    42: "A half-close in place of an answer, or in the middle of one, is a `reset`; one after a "
    "body without a length is its end.",
    43: "An expired, foreign or self-signed certificate and TLS 1.0 are a `tls_error` before the "
    "request is sent; a handshake that stalls is a `timeout`.",
    44: "On a link that loses 30 % an answer that comes in time is whole, the rest is a `timeout`, "
    "and a hedge to a healthy upstream wins.",
    45: "At 8 kbit/s a small answer comes and a large one is a `timeout`: the deadline covers the body.",
    46: "NXDOMAIN, SERVFAIL and a dead name server are a `dns_error`, a silent one is a `timeout`; "
    "a dead address among others is passed over, and a TTL of 0 is no look-up for each call.",
    # E. Upstream, protocol and payload
    47: "Silence is a `timeout` at the deadline, and the connection is closed.",
    48: "A head and then silence is a `timeout`.",
    49: "A byte in 100 ms is a `timeout`, in the head and in the body.",
    50: "Interim answers (1xx) without end are a `protocol_error` after 100.",
    51: "A header, or headers, without end are a `protocol_error` at the limit.",
    52: "A length of 10 GB is `too_large` before a byte of the body is read.",
    53: "Chunks without end are `too_large` at the limit.",
    54: "A compression bomb stops at the limit, decoded; a coding that is unknown or comes twice is"
    " no answer.",
    55: "A body shorter or longer than its length fails or is cut to it, and the connection is not "
    "used again.",
    56: "Malformed chunks, NUL in a header, a second answer and bytes after the body cost the "
    "connection; none is taken for the next answer.",
    57: "A 200 without a valid payload is an `invalid_payload`, however wild, and counts for the breaker.",
    58: "A 200 that tells an error is what the upstream's rule says; with no rule it is a success.",
    59: "The body of a 204 or 304 is ignored, and the connection is closed.",
    60: "A 429 or 503 with `Retry-After` is not hedged by the adaptive strategy.",
    61: "In a storm of 500s the third failure within 30 s is the last call.",
    62: "A redirect is an `http_error` and is not followed, wherever it points.",
    63: "An answer 1 ms before the deadline is in time; one at the deadline or 1 ms after it is not.",
    64: "An answer whose body fails after its head does not win; the next one does.",
    # F. Strategy, breaker, budget
    65: "FIRST of three succeeds while one of them is healthy.",
    66: "No hedge is fired when the answer comes before the delay; after a failure it is fired at once.",
    67: "After a stall of 1 s at 60, 75 and 90 % load success returns within seconds, because extra"
    " calls have a budget.",
    68: "Answers never mix, and what a loser brings late reaches nobody.",
    69: "A 4xx does not open the breaker, nor do callers who give less than a fair time.",
    70: "Half open, a thousand callers and four workers make one probe; a probe whose caller leaves"
    " or whose worker is killed gives its slot back.",
    71: "The open time is 10, 20, 40, 60, 60 s, with jitter, and starts over after a success.",
    72: "A new worker finds the circuits as they were; a record that a killed one left half-written"
    " counts as closed.",
    # G. Overload
    73: "At 2, 5 and 10 times the capacity what is taken is answered in time, and refusals are "
    "quick (simulated).",
    74: "In a step to 10 times and back goodput stays above 75 % in each second, nothing is late, "
    "and two seconds after it nobody is refused (simulated).",
    75: "4,000 connections opened at once are accepted, and those who were there are answered meanwhile.",
    76: "Out of file descriptors the server neither spins nor drops who is connected, and it recovers.",
    77: "Before its memory is full the server sheds by stages.",
    78: "`/health` and `/metrics` answer within 100 ms while everything else is refused.",
    79: "What can wait is shed before what cannot.",
}

OUT: Mapping[int, str] = {
    77: "The server takes no steps by memory yet. What bounds it are the limits on bodies (52 to "
    "54) and on requests under way (73).",
    79: "There are no classes of callers yet: all that asks an upstream is shed alike, and what "
    "watches the server never is (78).",
}
"""Rows that no test shows, and why."""
