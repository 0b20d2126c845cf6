"""The programs in Go: load generator, upstream, and one of the peers. Built once, from one file each.

The toolchain is a package of the peers' virtual environment, which ``make bench`` makes; a ``go`` on the path
will do as well. Nothing is fetched: the programs need the standard library alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.processes import ROOT, BenchmarkError

CACHE = ROOT / "benchmarks" / ".cache"
PEERS = ROOT / os.environ.get("PEERS_VENV", ".venv-peers")
MODULE = ROOT / "benchmarks"
"""The folder of ``go.mod``: without one the toolchain behaves like Go 1.20, which would wrong the peer."""
PROGRAMS = {"generator": "generator", "upstream": "upstream", "peer": "peers/go"}
"""Their folders."""


def toolchain() -> str | None:
    """Where ``go`` is; None without one."""
    own = PEERS / "bin" / "go"
    return str(own) if own.exists() else shutil.which("go")


def environ() -> dict[str, str]:
    """What keeps the toolchain to itself: nothing fetched, its caches beside the programs."""
    return {
        **os.environ,
        "GO111MODULE": "on",
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "",
        "GOPROXY": "off",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
        "GOCACHE": str(CACHE / "build"),
        "GOPATH": str(CACHE / "path"),
    }


def version() -> str:
    """Such as ``go1.27.3``."""
    go = toolchain()
    if go is None:
        return "none"
    told = subprocess.run([go, "version"], env=environ(), capture_output=True, text=True, timeout=60)
    return told.stdout.split()[2] if told.returncode == 0 else "unknown"


def build(name: str) -> Path:
    """
    The program, built when it is older than its source.

    Raises:
        BenchmarkError: there is no Go, or it does not compile.
    """
    source, program = MODULE / PROGRAMS[name] / "main.go", CACHE / name
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    go = toolchain()
    if go is None:
        raise BenchmarkError(
            "there is no Go toolchain, but load generator and upstream are in Go: nothing can be measured. "
            "`make bench` installs one; benchmarks.lateness, .events, .hedging and .restarts do without"
        )
    CACHE.mkdir(exist_ok=True)
    done = subprocess.run(
        [go, "build", "-o", str(program), f"./{PROGRAMS[name]}"],
        cwd=MODULE,
        env=environ(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise BenchmarkError(f"{source} does not compile:\n{done.stderr}")
    return program
