"""Rows 1 to 36 of the fault list: what callers send, and what must hold.

Each row includes what is not repeated: no 5xx but those that are named, no word in the log, and nothing left
behind (tasks, connections, descriptors). A test says by its marker ``fault(n)`` that it shows row n;
`tests/faults/test_catalogue.py` sees that none is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

ROWS: Mapping[int, str] = {
    # A. Inbound HTTP
    1: "A length beside chunks is a 400 and the end of the connection; what is smuggled behind is not "
    "served.",
    2: "Two lengths, equal or not, are a 400 and the end of the connection.",
    3: "A length that is no plain number (`+2`, `-1`, `1_0`) is a 400; blanks around one are HTTP's own.",
    4: "A transfer coding other than one `chunked` is a 400 and the end of the connection.",
    5: "No `Host`, or two of them, is a 400.",
    6: "A folded header, a bare line feed, CR or NUL in a value and a space before the colon are a 400.",
    7: "HTTP/0.9 and a request line of HTTP/2 are a 505, the preface of HTTP/2 is a 400.",
    8: "An absolute target, CONNECT and unknown methods are a 400, TRACE and other methods a 405; the host "
    "in a target is never used.",
    9: "A line or field of 9 kB, 129 headers, 20,000 headers and 20,000 trailers are a 400.",
    10: "A chunk size that overflows is a 400; a body of tiny chunks or of chunk extensions is given up "
    "after a part of it.",
    11: "A body over the limit is a 413 before it was read: at its head if that tells the length, else at "
    "the limit.",
    12: "A compressed body is a 415 and is never decompressed.",
    13: "A thousand pipelined GETs are answered in order, with few of them held at a time.",
    14: "A silent connection is closed after 5 s, half a head is a 408 after 5 s, and half a body a 408 "
    "after 10 s, however it drips.",
    15: "Silent and dripping connections are all closed in time, and those who ask meanwhile are answered.",
    16: "The hello of TLS on the plain port is a 400.",
    17: "`Expect: 100-continue` is honoured; any other expectation is a 417 that does not repeat it.",
    18: "A caller who goes away before, during or after a request leaves no work behind: its attempts "
    "end within 50 ms.",
    19: "A caller who half-closes counts as gone (a decision): its calls are cancelled, and it gets no "
    "answer.",
    20: "Answers to bad requests tell no version and repeat no input, and a flood of them leaves the log "
    "empty.",
    # B. Parameters
    21: "Without a `timeout` the longest one holds, as the OpenAPI document says.",
    22: "A `timeout` that is not a plain whole number is a 400 that names the field and the range.",
    23: "A `timeout` out of range is a 400, not the nearest in range.",
    24: "A `timeout` given twice is a 400; a header of that name means nothing.",
    25: "A `timeout` in range is taken to the millisecond, around 5 s too.",
    26: "An unknown strategy, or its name in another case, stops the start; callers cannot choose one.",
    27: "No upstream, an unknown one, or too many attempts stop the start; callers cannot choose any.",
    28: "Escapes that are no text (`%00`, `%ff`, `%zz`, overlong) are a 400 where they are read, and nothing "
    "elsewhere.",
    29: "An unknown query parameter is ignored (a decision).",
    30: "JSON that is wrong, deep, wide or not what the route takes is a 400, and a short one.",
    # C. Headers and ids
    31: "An `X-Request-Id` with anything but letters, digits, `.`, `_` and `-` is replaced, and neither "
    "repeated nor logged.",
    32: "A `traceparent` that is malformed or given twice begins a new trace, a good one is gone on with; "
    "without a collector none is read. The answer is the same and does not repeat it.",
    33: "A forged `X-Forwarded-For` does not change whose allowance is used up.",
    34: "`Host` is used for no URL but the links to files in `DATA_DIR` that its own caller gets; "
    "`X-Forwarded-Host` for none.",
    35: "Hop-by-hop headers, and those that `Connection` names, are not forwarded.",
    36: "A caller's credentials, cookies and own headers are not forwarded.",
}
