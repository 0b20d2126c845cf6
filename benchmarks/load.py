"""One run of wrk, and what it found.

The Lua scripts in ``wrk/`` count; this starts them and reads their last line. What is right behaviour and
what is an error is said here, once per route.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import BenchmarkError, pin

SCRIPTS = Path(__file__).with_name("wrk")
UNMET = {"all": "500", "first": "500", "smart": "503"}
"""The status with which each route says that it has no answer: right behaviour. The others have none."""


@dataclass(frozen=True)
class Ask:
    """
    What the callers do.

    Attributes:
        timeout: the longest timeout in ms.
        timeout_min: the shortest one; each request draws one between, unless they are equal.
    """

    route: str
    timeout_min: int
    timeout: int
    callers: int
    seconds: int

    @property
    def text(self) -> str:
        """The timeout in words."""
        if self.timeout_min == self.timeout:
            return str(self.timeout)
        return f"{self.timeout_min}-{self.timeout}"


@dataclass(frozen=True)
class Found:
    """What the callers saw. Times in ms."""

    requests: int
    seconds: float
    ok: int
    unmet: int
    errors: int
    late: int
    p50: float
    p95: float
    p99: float
    worst: float


def find_wrk() -> str:
    """
    Where wrk is.

    Raises:
        BenchmarkError: it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise BenchmarkError("wrk is missing: apt-get install wrk")
    return path


def run_wrk(url: str, ask: Ask, core: int | None = None) -> Found:
    """Let wrk's callers ask for some seconds, on *core*."""
    script = "fixed.lua" if ask.timeout_min == ask.timeout else "random.lua"
    command = [
        *(find_wrk(), "--threads", "1", "--connections", str(ask.callers), "--duration", f"{ask.seconds}s"),
        *("--timeout", "60s", "--script", str(SCRIPTS / script), url),
    ]
    told = {
        "ROUTE": ask.route,
        "TIMEOUT": str(ask.timeout),
        "TIMEOUT_MIN": str(ask.timeout_min),
        "TIMEOUT_MAX": str(ask.timeout),
    }
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **told},
            capture_output=True,
            text=True,
            timeout=ask.seconds + 30,
            preexec_fn=lambda: pin(core),
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError("wrk did not end") from None
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise BenchmarkError(f"wrk failed: {(done.stderr or done.stdout).strip()}")
    return read(lines[-1], ask.route)


def read(line: str, route: str) -> Found:
    """What a script's last line says about *route*."""
    told = json.loads(line)
    statuses: dict[str, int] = told["statuses"]
    ok, unmet = statuses.pop("200", 0), statuses.pop(UNMET.get(route, ""), 0)
    broken = sum(told[kind] for kind in ("connect", "read", "write", "timeout"))
    return Found(
        requests=told["requests"],
        seconds=told["seconds"],
        ok=ok,
        unmet=unmet,
        errors=sum(statuses.values()) + broken,
        late=told["late"],
        p50=told["p50"],
        p95=told["p95"],
        p99=told["p99"],
        worst=told["max"],
    )
