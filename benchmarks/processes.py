"""Our own subprocesses: started on a free port and on a core of their own, watched from outside, and ended.

Server and load have to be kept apart, or each is measured with the other's work in it. What the server costs
is read from the kernel, so that nothing inside it has to be trusted.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / ".results"
TICK = os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1
EVERYWHERE = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
"""The cores there are, before we pin ourselves to one."""


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


def pin(core: int | None, pid: int = 0) -> None:
    """Keep this process (and what it starts), or the one of *pid*, on *core*."""
    if core is not None:
        os.sched_setaffinity(pid, {core})


def beginning(core: int | None) -> Callable[[], None]:
    """
    What a child does before it becomes its program: it goes to *core* (None: to any), and will be told when
    we die, however we die. It gets as many descriptors as may be had.
    """
    parent = os.getpid()
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def begin() -> None:
        if EVERYWHERE:
            os.sched_setaffinity(0, EVERYWHERE if core is None else {core})
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:
                os._exit(1)

    return begin


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


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs one of our modules."""
    return [sys.executable, "-m", module, *arguments]


class Process:
    """One command run as a subprocess; what it logs goes to a file beside the results."""

    running: list[Process] = []  # noqa: RUF012 - all there are, so that their work is not taken for a stranger's

    def __init__(
        self,
        command: Sequence[str],
        name: str,
        environ: Mapping[str, str] | None = None,
        core: int | None = None,
    ) -> None:
        RESULTS.mkdir(exist_ok=True)
        self.name = name
        self.log = RESULTS / f"{name}.log"
        with self.log.open("w") as output:
            self._popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=beginning(core),
            )
        Process.running.append(self)

    def wait_for(self, url: str, within: float = 15.0) -> None:
        """Wait until *url* answers 200."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            if self._popen.poll() is not None:
                raise BenchmarkError(f"{self.name} ended at once: {self.log.read_text()[-2000:].strip()}")
            with contextlib.suppress(OSError, urllib.error.URLError):
                get(url)
                return
            time.sleep(0.05)
        raise BenchmarkError(f"{self.name} does not answer at {url}; its log is {self.log}")

    def family(self) -> list[int]:
        """Its process id, and those of its children and theirs."""
        found = [self._popen.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def cpu_seconds(self) -> float:
        """User and system time so far, of all its threads and workers."""
        total = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICK

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory now, and at its peak, in MB, of all its workers together."""
        now = peak = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
                now, peak = now + sizes.get("VmRSS", 0), peak + sizes.get("VmHWM", 0)
        return now / 1024, peak / 1024

    def descriptors(self) -> int:
        """Open file descriptors."""
        return len(os.listdir(f"/proc/{self._popen.pid}/fd"))

    def errors(self) -> int:
        """Lines of its log that are errors of the program."""
        return sum('"ERROR"' in line or "Traceback" in line for line in self.log.read_text().splitlines())

    def stop(self) -> None:
        """Ask it to end; after ten seconds, end it."""
        Process.running.remove(self)
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
            command = python("upstream.simulator", "--port", str(port), *model.arguments())
            simulator = Process(command, "simulator", core=cores.simulator)
            stack.callback(simulator.stop)
            simulator.wait_for(f"{upstream}?latency=constant:0&failure=0&invalid=0&hang=0")
        url = f"http://127.0.0.1:{free_port()}"
        own = {"PORT": url.rpartition(":")[2], "WORK_API_URL": upstream}
        server = Process(python("server"), "server", {**QUIET, **own, **model.environ()}, cores.server)
        stack.callback(server.stop)
        server.wait_for(f"{url}/ready")
        yield Running(url, server, simulator)


QUIET = {"HOST": "127.0.0.1", "ACCESS_LOG": "off", "LOG_LEVEL": "warning", "DRAIN_DELAY_MS": "0"}
"""How our server runs here: no access log, and no waiting before it ends."""


def busy_seconds() -> float:
    """How long all cores together have been busy since the machine was started; 0 where it is not told."""
    try:
        user, nice, system, _, _, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        )
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq + steal) / TICK


def our_seconds() -> float:
    """Seconds of CPU of everything that we run, ourselves and what has ended included."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    here = time.process_time() + ended.ru_utime + ended.ru_stime
    return here + sum(process.cpu_seconds() for process in Process.running)
