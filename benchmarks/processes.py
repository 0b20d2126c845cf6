"""Our own subprocesses: started on a free port and on a core of their own, watched from outside, and ended.

Server and load have to be kept apart, or each is measured with the other's work in it. What the server costs
is read from the kernel, so that nothing inside it has to be trusted.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / ".results"
TICK = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """The benchmark cannot be run; the message says why and what to do."""


@dataclass(frozen=True)
class Cores:
    """Which core each one runs on; None where there are not enough to choose from."""

    server: int | None
    simulator: int | None
    load: int | None


def assign_cores() -> Cores:
    """The server on the first core; load and simulator share the second, or have one each of three."""
    if not hasattr(os, "sched_getaffinity") or len(free := sorted(os.sched_getaffinity(0))) < 2:
        return Cores(None, None, None)
    return Cores(free[0], free[2] if len(free) > 2 else free[1], free[1])


def pin(core: int | None) -> None:
    """Keep this process (and what it starts) on *core*."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that our subprocesses end with us."""

    def unwind(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, unwind)


def get(url: str, within: float = 2.0) -> str:
    """The body of a 200."""
    with urllib.request.urlopen(url, timeout=within) as response:
        text: str = response.read().decode()
        return text


class Process:
    """One Python module run as a subprocess; what it logs goes to a file beside the results."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        core: int | None = None,
        log: str = "",
    ) -> None:
        RESULTS.mkdir(exist_ok=True)
        self.module = module
        self.log = RESULTS / f"{log or module}.log"
        with self.log.open("w") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: pin(core),
            )

    def wait_for(self, url: str, within: float = 15.0) -> None:
        """Wait until *url* answers 200."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            if self._popen.poll() is not None:
                raise BenchmarkError(f"{self.module} ended at once: {self.log.read_text()[-2000:].strip()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                get(url)
                return
            time.sleep(0.05)
        raise BenchmarkError(f"{self.module} does not answer at {url}; its log is {self.log}")

    def cpu_seconds(self) -> float:
        """User and system time so far, of all its threads."""
        fields = Path(f"/proc/{self._popen.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory now, and at its peak, in MB."""
        lines = Path(f"/proc/{self._popen.pid}/status").read_text().splitlines()
        kilobytes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Vm")}
        return int(kilobytes["VmRSS"]) / 1024, int(kilobytes["VmHWM"]) / 1024

    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self._popen.pid}/fd"))

    def errors(self) -> int:
        """Lines of its log that are errors of the program."""
        return sum('"ERROR"' in line or "Traceback" in line for line in self.log.read_text().splitlines())

    def stop(self) -> None:
        """Ask it to end; after ten seconds, end it."""
        self._popen.terminate()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


@dataclass(frozen=True)
class Simulator:
    """What the simulated upstream is told: a latency distribution, and shares of failures."""

    latency: str = "uniform:100-600"
    failure: float = 0.05
    invalid: float = 0.025
    hang: float = 0.025

    def arguments(self) -> list[str]:
        """As arguments of ``python -m upstream.simulator``."""
        rates = f"--failure {self.failure} --invalid {self.invalid} --hang {self.hang}"
        return ["--latency", self.latency, *rates.split()]

    def environ(self) -> dict[str, str]:
        """As settings of the server, whose own simulator it then is."""
        return {
            "SIMULATOR_LATENCY": self.latency,
            "SIMULATOR_FAILURE": str(self.failure),
            "SIMULATOR_INVALID": str(self.invalid),
            "SIMULATOR_HANG": str(self.hang),
        }


PROMPT = Simulator("constant:0", 0, 0, 0)
"""An upstream without latency or failures."""


@dataclass(frozen=True)
class Running:
    """A server that answers at *url*; *simulator* is None when it plays its own upstream."""

    url: str
    server: Process
    simulator: Process | None


@contextlib.contextmanager
def running(model: Simulator, cores: Cores, *, embedded: bool = False) -> Iterator[Running]:
    """Server and simulated upstream while the block runs; *embedded*, the two in one process."""
    with contextlib.ExitStack() as stack:
        simulator, upstream = None, ""
        if not embedded:
            port = free_port()
            upstream = f"http://127.0.0.1:{port}/api/work"
            simulator = Process(
                "upstream.simulator", ["--port", str(port), *model.arguments()], core=cores.simulator
            )
            stack.callback(simulator.stop)
            simulator.wait_for(f"{upstream}?latency=constant:0&failure=0&invalid=0&hang=0")
        url = f"http://127.0.0.1:{free_port()}"
        quiet = {"ACCESS_LOG": "off", "LOG_LEVEL": "warning", "DRAIN_DELAY_MS": "0"}
        own = {"HOST": "127.0.0.1", "PORT": url.rpartition(":")[2], "WORK_API_URL": upstream}
        server = Process("server", environ={**quiet, **own, **model.environ()}, core=cores.server)
        stack.callback(server.stop)
        server.wait_for(f"{url}/ready")
        yield Running(url, server, simulator)


def busy_seconds() -> float:
    """How long all cores together have been busy since the machine was started; 0 where it is not told."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        )
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq + steal) / TICK
