"""Who is measured: our server, and the peers that serve the same routes by the same rules.

Each is started as it would be in production, but without an access log. To add a peer, add a `Server` here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks import golang
from benchmarks.processes import QUIET, ROOT, Cores, Process, free_port, python

PEER_ROUTES = ("smart", "all", "first")


@dataclass(frozen=True)
class Server:
    """A kind of server: what runs it on a port over an upstream, and the path that answers when it is up."""

    name: str
    command: Callable[[int, str], list[str]]
    ready: str
    environ: Mapping[str, str] = field(default_factory=dict)
    ours: bool = False
    routes: tuple[str, ...] = PEER_ROUTES

    def start(self, upstream: str, core: int | None) -> tuple[str, Process]:
        """Its address and its process; it may not answer yet."""
        port = free_port()
        own = {"PORT": str(port), "WORK_API_URL": upstream} if self.ours else {}
        environ = {**self.environ, **own}
        return f"http://127.0.0.1:{port}", Process(
            self.command(port, upstream), f"{self.name}-{port}", environ, core
        )


def ours(*, shedding: bool = True, workers: int = 1) -> Server:
    """Hedgerow with everything on."""
    told = {"LOAD_SHEDDING": "on" if shedding else "off", "WORKERS": str(workers)}
    return Server(
        "hedgerow",
        lambda port, upstream: python("server"),
        "/ready",
        {**QUIET, **told},
        ours=True,
        routes=(*PEER_ROUTES, "within-timeout", "adaptive"),
    )


def go(*, threads: int | None = None) -> Server:
    """net/http on both sides."""
    return Server(
        "go",
        lambda port, upstream: [str(golang.build("peer")), "-port", str(port), "-upstream", upstream],
        "/ready",
        {"GOMAXPROCS": str(threads)} if threads else {},
    )


def plain_aiohttp() -> Server:
    """aiohttp as it is usually written, on the interpreter and the aiohttp that we run on."""
    script = str(ROOT / "benchmarks" / "peers" / "plain_aiohttp.py")
    return Server("aiohttp", lambda port, upstream: [sys.executable, script, str(port), upstream], "/ready")


def fastapi_httpx() -> Server:
    """FastAPI, httpx and uvicorn, from the peers' virtual environment."""
    script = str(ROOT / "benchmarks" / "peers" / "fastapi_httpx.py")
    interpreter = str(golang.PEERS / "bin" / "python")
    return Server("fastapi", lambda port, upstream: [interpreter, script, str(port), upstream], "/ready")


def peers() -> tuple[list[Server], list[str]]:
    """Those that can be started here, and in words which are left out."""
    found, missing = [plain_aiohttp()], []
    if golang.toolchain():
        found.insert(0, go())
    else:
        missing.append("go is left out: there is no Go toolchain")
    if (golang.PEERS / "bin" / "uvicorn").exists():
        found.append(fastapi_httpx())
    else:
        missing.append("fastapi is left out: benchmarks/peers/requirements.txt is not installed")
    return found, missing


def upstream(cores: Cores, latency: str = "0", failing: bool = False) -> tuple[str, Process]:
    """
    The upstream, on the load's core: its address and its process.

    Args:
        latency: milliseconds, ``50`` or ``100-600``.
        failing: whether a tenth goes wrong: half of it a 500, a quarter an invalid body, a quarter hangs.
    """
    port = free_port()
    command = [str(golang.build("upstream")), "-port", str(port), "-latency", latency]
    if failing:
        command += ["-failure", "0.05", "-invalid", "0.025", "-hang", "0.025"]
    return f"http://127.0.0.1:{port}", Process(command, f"upstream-{port}", core=cores.load)
