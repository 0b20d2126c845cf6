"""A real server or worker in a process of its own, that may be told to kill itself at a step of a job.

Processes are forked from one that has loaded everything, so that a start takes a tenth of a second and kills
come close together. Steps that the application does not name are told by what is wrapped here, in the child.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from ipaddress import ip_network
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop
from docket.dependencies import _concurrency
from docket.execution import Execution

from server.app import ROUTES, create_app
from server.downloads import engine, rescue, work
from server.downloads.engine import Queue
from server.downloads.files import Incoming
from server.downloads.records import Records
from server.lifespan import Trial
from server.logs import logging_to_stderr
from server.routes import load_table
from server.serve import listen, run
from server.settings import Settings, load_settings
from server.worker import create_worker, only_files, run_worker
from strategies import value
from upstream.guard import Policy

STEPS = {
    "create": "a job is about to be written down",
    "put": "it is written down, and in no queue",
    "answer": "it is in the queue, and its caller does not know",
    "parked": "it is set aside, its client having enough under way",
    "claim": "it was taken out of the queue",
    "claimed": "a run has begun",
    "file": "a file is about to be begun",
    "progress": "a part of a file is there",
    "written": "all of a file was received, and it is not in its place",
    "kept": "it is in its place, and nobody knows",
    "stored": "it is about to be written down that it is there",
    "finish": "all files are there, and the job has not ended",
    "tell": "it has ended, and its callback is in no queue",
    "owed": "its callback is in the queue, and the queue takes the job for running",
    "send": "a webhook is about to be sent",
    "sent": "it was taken, and that is not written down",
    "attempted": "it was refused, and the next attempt is in no queue",
    "settled": "it was taken, and the queue takes it for running",
    "acknowledge": "the queue is about to be told that all is done",
    "cancelled": "it was cancelled, its callback is in no queue, and who works on it does not know",
}
"""Where a process can be told to kill itself, and what that means for a job."""


@value
class Pace:
    """
    How patient a server is; all in seconds.

    Attributes:
        redelivery: after which others take up what a dead worker had.
        silent: without a sign of life after which a job is queued again.
        every: between two looks for such jobs.
        deaths: of workers at one job before that ends it.
    """

    redelivery: float = engine.REDELIVERY
    silent: float = rescue.SILENT
    every: float = rescue.EVERY
    deaths: int = work.MOST_DEATHS


REAL = Pace()
BRISK = Pace(redelivery=1.0, silent=6.0, every=1.0, deaths=100)
"""Kills come as often as redelivery then, so a job may meet ten of them and be innocent."""


@value
class Order:
    """
    What to start.

    Attributes:
        role: ``server`` or ``worker``.
        environ: its settings.
        hook: the port of the receiver of webhooks.
        log: what it says goes to the end of this file.
        step: where it kills itself; nothing: nowhere.
    """

    role: str
    environ: dict[str, str]
    hook: int
    log: Path
    pace: Pace
    step: str


def launch(order: Order, started: Connection) -> None:
    """Be what is *ordered* until the process is killed or told to stop; sends its URL once it has begun."""
    with order.log.open("ab") as log:
        os.dup2(log.fileno(), 2)
    random.seed()  # each process its own luck, though they were one

    def step(name: str) -> None:
        if name == order.step:
            os.kill(os.getpid(), signal.SIGKILL)

    _set(order.pace)
    _wrap(step)
    settings = load_settings(order.environ)
    allowed = (ip_network("127.0.0.0/8"),)
    trial = Trial(policy=Policy(http=True, ports=frozenset({order.hook}), allowed=allowed), step=step)
    with logging_to_stderr(settings.log_level), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_be(order.role, settings, trial, started))


async def _be(role: str, settings: Settings, trial: Trial, started: Connection) -> None:
    table = load_table(ROUTES.read_text("utf-8"), settings.environ)
    parent = multiprocessing.parent_process()
    assert parent is not None
    # Nobody is left behind when the test itself is killed.
    asyncio.get_running_loop().add_reader(parent.sentinel, os._exit, 1)
    if role == "worker":
        started.send("")
        await run_worker(create_worker(settings, only_files(settings, table), trial=trial))
    else:
        app = create_app(settings, table, trial=trial)
        with listen("127.0.0.1", 0) as sock:
            await run(app, settings, sock, started.send)


def _set(pace: Pace) -> None:
    engine.REDELIVERY = pace.redelivery
    rescue.SILENT, rescue.EVERY = pace.silent, pace.every
    work.MOST_DEATHS = pace.deaths


def _wrap(step: Callable[[str], None]) -> None:
    """Tell the steps that nobody else tells."""
    _before(Incoming, "keep", lambda: step("written"))
    _after(Incoming, "keep", lambda found: step("kept"))
    _after_async(Records, "claim", lambda found, *_: found and step("claimed"))
    _after_async(Records, "cancel", lambda *_: step("cancelled"))
    _after_async(Records, "settle", lambda *_: step("settled"))
    _after_async(Records, "attempted", lambda *_: step("attempted"))
    _after_async(Queue, "put", lambda found, queue, *_: queue._kind == engine.CALLBACK and step("owed"))
    _after_async(_concurrency, "_acquire_or_park", lambda found, *_: found or step("parked"))
    _before(Execution, "mark_as_completed", lambda: step("acknowledge"))


def _before(owner: Any, name: str, tell: Callable[[], object]) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        tell()
        return original(*args, **named)

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, tell: Callable[[Any], object]) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        found = original(*args, **named)
        tell(found)
        return found

    setattr(owner, name, wrapped)


def _after_async(owner: Any, name: str, tell: Callable[..., object]) -> None:
    original = getattr(owner, name)

    async def wrapped(*args: Any, **named: Any) -> Any:
        found = await original(*args, **named)
        tell(found, *args)
        return found

    setattr(owner, name, wrapped)
