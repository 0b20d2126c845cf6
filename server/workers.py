"""Several workers on one listening socket: the parent, which serves nobody and keeps the others at it.

It binds, forks, and then waits for signals and for children that end. What to do about them is decided by
`Supervisor`, which does no I/O and takes ``now``; `Parent` does what it says. No thread and no event loop
ever runs in the parent, as neither would survive a fork; each worker starts its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import select
import signal
import socket
import struct
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count as counting
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeAlias

import uvloop
from aiohttp import web
from pythonjsonlogger.json import JsonFormatter

from server.app import TELEMETRY, create_app
from server.lifespan import Shared, simulated
from server.logs import FORMAT, NAMES, logging_to_stderr
from server.routes import Table
from server.serve import CANCELLED_WITHIN, QUIET, listen, run
from server.settings import Settings
from server.worker_metrics import Folder, Teller
from strategies import value
from upstream.shared_memory import SharedFile
from upstream.simulator.app import make_app

log = logging.getLogger("hedgerow.server")

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds before a worker that died young is replaced; doubled while its successors die young too."""
GROWN_UP = 10.0
"""Seconds of life after which a death is an accident and not a habit."""
START_WITHIN = 30.0
"""Seconds within which a worker has to accept; it is killed if it does not."""
MARGIN = 3.0
"""Seconds beyond its own bounds that a worker has for its end."""

HAND_OVER = 8.0
"""Seconds more for it to hand its jobs over, and as the last one out to stop the embedded job store."""

LONGEST_SOCKET_PATH = 103
"""Bytes; Linux takes four more, the BSDs do not."""


@value
class Fork:
    """Start worker *number*."""

    number: int


@value
class Send:
    """Send *signal* to worker *number*."""

    number: int
    signal: signal.Signals


Action: TypeAlias = Fork | Send


@dataclass(slots=True)
class _Worker:
    number: int
    generation: int
    born: float
    falls: int
    kill_at: float
    ready: bool = False
    leaving: bool = False


@dataclass(slots=True)
class _Vacancy:
    at: float
    falls: int


class Supervisor:
    """
    Decides which workers there should be. Every method takes what happened and returns what to do.

    There are *wanted* workers that are not leaving; while a worker of an older generation is left, one more,
    its successor. When all of the newer ones are ready and none is leaving, the oldest is asked to leave.
    From this one rule follow the start, the respawn and the rolling restart.

    Args:
        wanted: how many workers.
        stop_within: seconds that a worker has to end after it was asked to; then it is killed.
        numbers: the names of workers; each is used once.

    Attributes:
        stopping: no more workers are started.
    """

    def __init__(self, wanted: int, stop_within: float, numbers: Iterator[int]) -> None:
        self._wanted = wanted
        self._stop_within = stop_within
        self._numbers = numbers
        self._generation = 0
        self._workers: dict[int, _Worker] = {}
        self._vacancies: list[_Vacancy] = []
        self.stopping = False

    @property
    def serving(self) -> bool:
        """Whether as many as wanted are ready."""
        return sum(worker.ready for worker in self._staying()) >= self._wanted

    @property
    def renewing(self) -> bool:
        """Whether a rolling restart is under way."""
        return not self.stopping and (self._leaving() or bool(self._stale()))

    @property
    def done(self) -> bool:
        """Whether everything has ended that was asked to."""
        return self.stopping and not self._workers

    def start(self, now: float) -> list[Action]:
        """Begin."""
        return self._settle(now)

    def ready(self, number: int, now: float) -> list[Action]:
        """Worker *number* accepts connections."""
        if number in self._workers and not self._workers[number].leaving:
            self._workers[number].ready = True
            self._workers[number].kill_at = float("inf")
        return self._settle(now)

    def ended(self, number: int, now: float) -> list[Action]:
        """Worker *number* is gone, for whatever reason."""
        worker = self._workers.pop(number)
        if not worker.leaving:
            falls = worker.falls + 1 if now - worker.born < GROWN_UP else 0
            delay = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(falls - 1, 30)) if falls else 0.0
            self._vacancies.append(_Vacancy(now + delay, falls))
        return self._settle(now)

    def renew(self, now: float) -> list[Action]:
        """Replace every worker that there is, one at a time."""
        self._generation += 1
        return self._settle(now)

    def stop(self, now: float, number: signal.Signals) -> list[Action]:
        """Pass the signal *number* on to every worker, and start none any more."""
        self.stopping = True
        actions: list[Action] = []
        for worker in self._workers.values():
            self._leave(worker, now)
            actions.append(Send(worker.number, number))
        return actions + self._settle(now)

    def tick(self, now: float) -> list[Action]:
        """Time has passed."""
        return self._settle(now)

    def due(self) -> float | None:
        """When `tick` has something to do; None if time alone changes nothing."""
        times = [worker.kill_at for worker in self._workers.values()] + [one.at for one in self._vacancies]
        first = min(times, default=float("inf"))
        return None if first == float("inf") else first

    def _settle(self, now: float) -> list[Action]:
        self._count_vacancies(now)
        return [*self._fill(now), *self._retire(now), *self._overdue(now)]

    def _count_vacancies(self, now: float) -> None:
        """As many vacancies as workers are missing; those that are due last go first."""
        missing = 0 if self.stopping else self._target() - len(self._staying())
        self._vacancies.sort(key=lambda one: one.at)
        del self._vacancies[max(0, missing) :]
        while len(self._vacancies) < missing:
            self._vacancies.append(_Vacancy(now, 0))

    def _target(self) -> int:
        successor = bool(self._stale()) and not self._leaving()
        return self._wanted + 1 if successor else self._wanted

    def _fill(self, now: float) -> Iterator[Action]:
        due = [one for one in self._vacancies if one.at <= now]
        self._vacancies = [one for one in self._vacancies if one.at > now]
        for vacancy in due:
            number = next(self._numbers)
            self._workers[number] = _Worker(
                number, self._generation, now, vacancy.falls, kill_at=now + START_WITHIN
            )
            yield Fork(number)

    def _retire(self, now: float) -> Iterator[Action]:
        staying, stale = self._staying(), self._stale()
        newer_are_ready = all(worker.ready for worker in staying if worker not in stale)
        if stale and not self._leaving() and len(staying) > self._wanted and newer_are_ready:
            self._leave(stale[0], now)
            yield Send(stale[0].number, signal.SIGTERM)

    def _overdue(self, now: float) -> Iterator[Action]:
        for worker in self._workers.values():
            if worker.kill_at <= now:
                worker.kill_at = float("inf")
                yield Send(worker.number, signal.SIGKILL)

    def _leave(self, worker: _Worker, now: float) -> None:
        if not worker.leaving:
            worker.leaving, worker.kill_at = True, now + self._stop_within

    def _staying(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if not worker.leaving]

    def _stale(self) -> list[_Worker]:
        return [worker for worker in self._staying() if worker.generation < self._generation]

    def _leaving(self) -> bool:
        return any(worker.leaving for worker in self._workers.values())


_NUMBER = struct.Struct("I")
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD})


class Pipes:
    """
    What parent and children tell each other beside signals.

    Attributes:
        ready: a child writes its number when it accepts.
        lifeline: never written to; the children see its end when the parent is gone, however it went.
        woken: the interpreter writes the number of each signal that the parent gets.
    """

    def __init__(self) -> None:
        self.ready, self._say_ready = os.pipe()
        self.lifeline, self._hold = os.pipe()
        self.woken, self._wake = os.pipe()
        for descriptor in (self.ready, self.woken, self._wake):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def in_child(self) -> None:
        """Let go of the parent's ends."""
        signal.set_wakeup_fd(-1)
        for descriptor in (self.ready, self._hold, self.woken, self._wake):
            os.close(descriptor)

    def say_ready(self, number: int) -> None:
        """Called by child *number*."""
        os.write(self._say_ready, _NUMBER.pack(number))

    def wait(self, seconds: float | None) -> tuple[list[int], bytes]:
        """Wait for the next news, at most *seconds*: the children that are ready, and signals as bytes."""
        select.select([self.ready, self.woken], [], [], seconds)
        said = _read(self.ready)
        return [number for (number,) in _NUMBER.iter_unpack(said)], _read(self.woken)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)  # a multiple of _NUMBER.size, and those are written whole
    except BlockingIOError:
        return b""


@dataclass
class Pool:
    """Children of one kind: what decides about them, what each does with its number, and which there are."""

    name: str
    supervisor: Supervisor
    work: Callable[[int], None]
    numbers: dict[int, int] = field(default_factory=dict)
    """By process id."""


class Parent:
    """
    Does what the supervisors say. *workers* serve; *simulator* plays the upstreams that have no URL.

    Args:
        tidy: called with the number of each child that has ended.
        served: called once, when all workers are ready for the first time.
        stopped: called when the first signal to stop has come.
    """

    def __init__(
        self,
        pipes: Pipes,
        workers: Pool,
        simulator: Pool | None,
        tidy: Callable[[int], None],
        served: Callable[[], None],
        stopped: Callable[[], None],
    ) -> None:
        self._pipes = pipes
        self._workers = workers
        self._simulator = simulator
        self._pools = [pool for pool in (simulator, workers) if pool is not None]
        self._tidy = tidy
        self._served: Callable[[], None] | None = served
        self._stopped: Callable[[], None] | None = stopped

    def run(self) -> None:
        """Until every child has ended."""
        for pool in self._pools:
            self._do(pool, pool.supervisor.start(time.monotonic()))
        while not all(pool.supervisor.done for pool in self._pools):
            ready, signals = self._pipes.wait(self._patience())
            now = time.monotonic()
            for number in signals:
                self._signalled(signal.Signals(number), now)
            for pool in self._pools:
                for number in ready:
                    self._do(pool, pool.supervisor.ready(number, now))
            self._reap(now)
            for pool in self._pools:
                self._do(pool, pool.supervisor.tick(now))
            self._notice(now)

    def _patience(self) -> float | None:
        dues = [due for pool in self._pools if (due := pool.supervisor.due()) is not None]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _signalled(self, number: signal.Signals, now: float) -> None:
        supervisor = self._workers.supervisor
        if number is signal.SIGHUP:
            log.info("rolling restart")
            self._do(self._workers, supervisor.renew(now))
        elif number in (signal.SIGTERM, signal.SIGINT):
            if self._stopped is not None:
                log.info("stopping")
                self._stopped()
                self._stopped = None
            self._do(self._workers, supervisor.stop(now, number))

    def _reap(self, now: float) -> None:
        for pool in self._pools:
            for pid in list(pool.numbers):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self._ended(pool, pid, os.waitstatus_to_exitcode(status), now)

    def _ended(self, pool: Pool, pid: int, code: int, now: float) -> None:
        number = pool.numbers.pop(pid)
        level = logging.INFO if code == 0 or pool.supervisor.stopping else logging.WARNING
        log.log(level, "%s %d ended", pool.name, number, extra={"pid": pid, "code": code})
        self._tidy(number)
        was_renewing = pool.supervisor.renewing
        self._do(pool, pool.supervisor.ended(number, now))
        if was_renewing and pool.supervisor.serving and not pool.supervisor.renewing:
            log.info("rolling restart is over")

    def _notice(self, now: float) -> None:
        if self._served is not None and self._workers.supervisor.serving:
            self._served()
            self._served = None
        if self._simulator is not None and self._workers.supervisor.done:
            # Nobody is left who asks it, and it keeps nothing.
            self._do(self._simulator, self._simulator.supervisor.stop(now, signal.SIGKILL))

    def _do(self, pool: Pool, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Fork(number):
                    self._start(pool, number)
                case Send(number, sent):
                    [pid] = [pid for pid, known in pool.numbers.items() if known == number]
                    os.kill(pid, sent)  # until it is waited for, the id is its own

    def _start(self, pool: Pool, number: int) -> None:
        try:
            pid = _fork(self._pipes, pool.work, number)
        except OSError as error:  # too many processes, too little memory: like a death, it is tried again
            log.error("%s %d cannot be started: %s", pool.name, number, error)
            self._do(pool, pool.supervisor.ended(number, time.monotonic()))
        else:
            pool.numbers[pid] = number
            log.info("%s %d started", pool.name, number, extra={"pid": pid})


def _fork(pipes: Pipes, work: Callable[[int], None], number: int) -> int:
    """A child that does *work* and exits; its process id. It never returns into the parent's code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child has forgotten the parent's handlers
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(pipes, work, number)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return pid


def _be_child(pipes: Pipes, work: Callable[[int], None], number: int) -> NoReturn:
    code = 1
    try:
        pipes.in_child()
        for one in _SIGNALS:
            # A terminal that closes sends SIGHUP to all; the parent makes it a rolling restart.
            signal.signal(one, signal.SIG_IGN if one is signal.SIGHUP else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        work(number)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # what the parent has on its stack is the parent's to close


def supervise(settings: Settings, table: Table, sock: socket.socket) -> None:
    """
    Serve on *sock* with ``settings.workers`` workers, until SIGTERM or SIGINT.

    Raises:
        OSError: there is no place for temporary files.
    """
    with ExitStack() as stack:
        stack.enter_context(_signals_handled())
        folder = Folder(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hedgerow-"))))
        if len(os.fsencode(folder.bell(10**9))) > LONGEST_SOCKET_PATH:
            raise OSError("the path of the folder for temporary files (TMPDIR) is too long for a socket")
        circuits = SharedFile(max(1, _circuits_in(table)))
        stack.callback(circuits.close)
        pipes, numbers = Pipes(), counting(1)
        simulator_sock = _simulator_socket(table, stack)
        workers = Pool(
            "worker",
            Supervisor(settings.workers, _stop_within(settings), numbers),
            _Work(settings, table, sock, simulator_sock, circuits, folder, pipes),
        )
        simulator = None
        if simulator_sock is not None:
            play = _Play(settings, simulator_sock, sock, pipes)
            simulator = Pool("simulator", Supervisor(1, MARGIN, numbers), play)
        url = _url(sock)

        def served() -> None:
            log.info("listening on %s with %d workers", url, settings.workers, extra={"url": url})

        # The workers have the socket too; when the last of them closes it, callers are refused at once.
        Parent(pipes, workers, simulator, folder.fold, served, sock.close).run()
        log.info("stopped")


def _stop_within(settings: Settings) -> float:
    margin = MARGIN + (HAND_OVER if settings.downloads else 0.0)
    return settings.drain_delay + QUIET + settings.shutdown_timeout + 2 * CANCELLED_WITHIN + margin


def _circuits_in(table: Table) -> int:
    return sum(len(entry.operations) for entry in table.upstreams if entry.breaker is not None)


def _url(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _simulator_socket(table: Table, stack: ExitStack) -> socket.socket | None:
    """The parent's, so that its address is known before, and stays when the simulator is started again."""
    if all(entry.url is not None for entry in table.upstreams):
        return None
    return stack.enter_context(listen("127.0.0.1", 0))


@dataclass
class _Work:
    """What a worker does."""

    settings: Settings
    table: Table
    sock: socket.socket
    simulator: socket.socket | None
    circuits: SharedFile
    folder: Folder
    pipes: Pipes
    parent: int = field(default_factory=os.getpid)

    def __call__(self, number: int) -> None:
        url = None
        if self.simulator is not None:
            url = _url(self.simulator)
            self.simulator.close()
        with logging_to_stderr(self.settings.log_level), self.sock:
            _run(self._serve(number, url))
        if os.getppid() != self.parent:  # it was killed, and cannot tidy up
            self.folder.remove()

    async def _serve(self, number: int, simulator: str | None) -> None:
        teller = Teller(self.folder, number)
        shared = Shared(self.circuits.store, simulator, teller.gather)
        # With luck of its own: what the parent has drawn before it forked would be the same in all.
        app = create_app(self.settings, self.table, random.Random(), shared=shared)

        def accepting(url: str) -> None:
            self.pipes.say_ready(number)

        async with teller.open(app[TELEMETRY].registry):
            await run(app, self.settings, self.sock, accepting, self.pipes.lifeline)


@dataclass
class _Play:
    """
    What the simulator's process does. One for all workers: an event that one of them adds, all of them read.

    It ends with the parent, or when the parent kills it; a signal to the whole group must not take it away
    from the workers that are still draining.
    """

    settings: Settings
    sock: socket.socket
    callers: socket.socket
    pipes: Pipes

    def __call__(self, number: int) -> None:
        self.callers.close()
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)
        with logging_to_stderr(self.settings.log_level):
            _run(self._serve(number))

    async def _serve(self, number: int) -> None:
        rng = random.Random(self.settings.simulator_seed)
        app = make_app(*simulated(self.settings, rng))
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.SockSite(runner, self.sock, backlog=4096).start()
        self.pipes.say_ready(number)
        orphaned = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.pipes.lifeline, orphaned.set)
        await orphaned.wait()
        await runner.cleanup()


def _run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


@contextmanager
def _signals_handled() -> Iterator[None]:
    """Have signals write to the wake-up pipe, which needs a handler, and do nothing else."""

    def noted(number: int, frame: FrameType | None) -> None:
        pass

    before: Mapping[signal.Signals, object] = {one: signal.signal(one, noted) for one in _SIGNALS}
    try:
        yield
    finally:
        signal.set_wakeup_fd(-1)
        for one, handler in before.items():
            signal.signal(one, handler)  # type: ignore[arg-type]


@contextmanager
def logging_without_thread(level: str) -> Iterator[None]:
    """Log while the block runs as `server.logs` does, but without its thread, which a fork would lose."""
    writer = logging.StreamHandler()
    writer.setFormatter(JsonFormatter(FORMAT, rename_fields=NAMES, json_ensure_ascii=True))
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = [writer]
    root.setLevel(level.upper())
    try:
        yield
    finally:
        root.handlers[:], root.level = before
