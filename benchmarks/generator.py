"""One run of the load generator: what it is asked to do, and what it found.

The generator is ``generator/main.go``; here is only its command line and the document that it prints.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks import golang
from benchmarks.processes import BenchmarkError, beginning
from benchmarks.schedule import Phase


@dataclass(frozen=True)
class Load:
    """
    What the callers do; times in seconds.

    Attributes:
        routes: asked for in turn.
        callers: of a closed loop; 0 in an open one.
        phases: of an open loop; its warm-up is part of the first.
        grace: callers give up so long after the timeout.
        connections: of an open loop, at most.
    """

    routes: tuple[str, ...]
    timeout: float = 0.5
    callers: int = 0
    seconds: float = 3.0
    phases: tuple[Phase, ...] = ()
    warmup: float = 0.0
    grace: float = 1.0
    connections: int = 4000
    seed: int = 1

    def arguments(self, url: str) -> list[str]:
        """The generator's."""
        paths = ",".join(f"/api/{route}?timeout={round(self.timeout * 1000)}" for route in self.routes)
        told = {
            "url": url + paths,
            "timeout": f"{self.timeout}s",
            "grace": f"{self.grace}s",
            "warmup": f"{self.warmup}s",
            "seed": str(self.seed),
        }
        if self.callers:
            ramp = min(1.0, self.callers / 2000)
            told |= {"callers": str(self.callers), "duration": f"{self.seconds}s", "ramp": f"{ramp}s"}
        else:
            rates = ",".join(f"{phase.rate:g}:{phase.seconds:g}s" for phase in self.phases)
            told |= {"rates": rates, "connections": str(self.connections)}
        return [text for name, value in told.items() for text in (f"-{name}", value)]

    @property
    def longest(self) -> float:
        """Seconds after which it must have ended."""
        length = sum(phase.seconds for phase in self.phases) or self.seconds + self.warmup
        return length + self.timeout + self.grace + 20


@dataclass(frozen=True)
class Seen:
    """
    What the callers saw. *sent* is the sum of *good* (a 200 in time), *refused* (a 503 with ``Retry-After``,
    in time), *failed* (any other status in time), *late* (over timeout and 10 ms), *unanswered* (given up, or
    sent by nobody as all connections waited: *no_connection*) and *broken*. Times in ms.

    Attributes:
        behind_ms: by how much an open loop sent later than it was due.
        stall_ms: the longest that the generator did not look at its connections.
        answered: answers in all, also those of the warm-up.
        opened: connections in all.
        series: the ends of the requests that were due in each second.
        cdf: by kind, pairs of milliseconds and the share of answers that took no longer.
    """

    seconds: float
    sent: int
    good: int
    refused: int
    failed: int
    late: int
    late_200: int
    unanswered: int
    no_connection: int
    broken: int
    answered: int
    opened: int
    stall_ms: float
    errors: Mapping[str, int] = field(default_factory=dict)
    status: Mapping[str, int] = field(default_factory=dict)
    latency_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    behind_ms: Mapping[str, float] = field(default_factory=dict)
    series: Sequence[Mapping[str, int]] = ()
    cdf: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    @property
    def late_share(self) -> float:
        """Of the requests that were sent: those answered late or never."""
        return (self.late + self.unanswered) / max(1, self.sent)

    @property
    def goodput(self) -> float:
        """Good answers per second."""
        return self.good / self.seconds

    def took(self, kind: str, quantile: str) -> float | None:
        """A quantile (``p50`` …) of *kind* (``all``, ``200``, ``refused``), in ms; None without any."""
        return self.latency_ms[kind].get(quantile)


def generate(url: str, load: Load, core: int | None) -> Seen:
    """
    Let the callers ask.

    Raises:
        BenchmarkError: the generator failed, or did not end in time.
    """
    command = [str(golang.build("generator")), *load.arguments(url)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=load.longest, preexec_fn=beginning(core)
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError("the generator did not end") from None
    if done.returncode:
        raise BenchmarkError(f"the generator failed: {done.stderr.strip()[-2000:]}")
    return Seen(**json.loads(done.stdout))
