"""Rows 80 to 107 of the fault list: processes that start and end, jobs, stores, streams, webhooks, supply.

A test says by its marker ``fault(n)`` that it shows row n; `tests/faults/test_catalogue.py` sees that none is
forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

ROWS: Mapping[int, str] = {
    # H. Lifecycle
    80: "SIGTERM lets requests in flight finish, ends event streams so that their clients go on "
    "elsewhere, and hands jobs over; the exit code is 0.",
    81: "A second SIGTERM cuts the rest short, also when the job store hangs.",
    82: "SIGTERM during the start ends it, and leaves nothing that keeps the next one from starting.",
    83: "A rolling restart loses no request.",
    84: "A worker that is killed is replaced, what it counted is not lost, and its jobs go on elsewhere.",
    85: "While a worker is stopped the others serve. There is no watchdog that would end it.",
    86: "A port in use, a bad setting and a folder that cannot be used are an exit code and a line that "
    "names them.",
    87: "A store that is away at the start does not stop it; `/health` tells, and it is found when it comes.",
    88: "After the fork each worker has a loop, a log and an error reporter of its own.",
    # I. Jobs, storage, event streams, webhooks
    89: "Whoever is killed, at each named step of a job and at random moments: nothing acknowledged is "
    "lost or stuck, and each job has one end and one result.",
    90: "An object store that fails, hangs, refuses or loses the connection is told in time; no part of "
    "an object is ever seen, and what a dead process began to upload is swept away.",
    91: "A full or broken disk is told plainly, and what was acknowledged is there when it is mended; a "
    "write that was cut off does not keep the job store from starting.",
    92: "A job store that is down, hangs, is full, a replica, or holds keys of a wrong type is a 503 or "
    "507 with `Retry-After`; it is found again when it is well.",
    93: "A worker that was only slow, and whose job another one has, changes nothing any more.",
    94: "A hundred requests at once with one `Idempotency-Key` make one job; the key with another body is"
    " a 422.",
    95: "A guess at a job's id, and what is no id, is a 404; no key in the job store is made from it. Who"
    " has the id has the job (a decision).",
    96: "Event streams resume without loss wherever they were cut, a client that never reads costs "
    "little, what was forgotten becomes a `resync`, and a drain ends streams cleanly.",
    97: "What a receiver of webhooks answers, or does not, means what the Standard Webhooks specification"
    " says.",
    98: "No URL that leads into a private network is connected to, however it is written, and all are "
    "refused in the same words.",
    99: "A file comes whole and of one version from a source that breaks off, fails, and changes it midway.",
    100: "A clock that jumps by an hour changes the times that are shown, and nothing else.",
    # J. Observability and supply
    101: "Secrets of callers and of the operator are not in logs, error reports, or what a command shows.",
    102: "Random paths make no new series in the metrics.",
    103: "A flood of requests that are none leaves the log empty, and a storm of bugs is reported in part.",
    104: "A Sentry or a collector of traces that is away, hangs or talks nonsense delays no answer, and the "
    "end for a second or so; what waits for it is bounded, and what is dropped is counted.",
    105: "A worker that died or is silent does not spoil the metrics of the others, and leaves nothing "
    "behind.",
    106: "A package whose hash is another one is not installed.",
    107: "In the container all of this holds as a user without privileges, on a read-only file system.",
}

OUT: Mapping[int, str] = {
    106: "That is pip's work: `make` and the image install with `--require-hashes`, from files that have a"
    " hash for each package.",
    107: "There is no container engine where the tests run.",
}
"""Rows that no test shows, and why."""
