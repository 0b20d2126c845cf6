"""What the figures were taken on: figures of two machines say nothing about each other."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import golang
from benchmarks.processes import ROOT


def machine() -> dict[str, str]:
    """Processor, kernel and versions, by name."""
    return {
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        **{name: _version(name) for name in ("aiohttp", "uvloop")},
        "go": golang.version(),
        **_of_peers(),
        "commit": _commit(),
    }


def told(facts: dict[str, str]) -> str:
    """On one line."""
    return ", ".join(f"{name} {fact}" for name, fact in facts.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def _of_peers() -> dict[str, str]:
    interpreter = golang.PEERS / "bin" / "python"
    if not interpreter.exists():
        return {}
    names = ("fastapi", "httpx", "uvicorn")
    script = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    done = subprocess.run(
        [str(interpreter), "-c", script, *names], capture_output=True, text=True, timeout=30
    )
    return dict(zip(names, done.stdout.split(), strict=False))


def _commit() -> str:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, timeout=30
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
