"""``python -m server jobs``: for operators who want to see the jobs of all clients, and to set one right.

It asks the job store itself, so it needs no server that runs, and it uses the same steps as the routes do. It
never shows the URL of a callback, which is its owner's secret: only the origin.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import orjson
from redis.exceptions import RedisError
from yarl import URL

from server.downloads import documents
from server.downloads.engine import CALLBACK, JOB, Again, Queue, open_queue
from server.downloads.jobs import ENDED, Callback, Job, JobState, Summary
from server.downloads.records import Records
from server.job_store.opening import FOLDER, JobStoreConfig, JobStoreError, open_job_store, shown
from server.settings import Settings
from strategies import value

EXIT_REFUSED = 1
EXIT_STORE = 3
EXIT_INTERRUPTED = 130

PAGE = 200
"""Jobs that the store is asked for at a time."""


class Refused(Exception):
    """It cannot be done with this job; the text says why in one line."""


@value
class Desk:
    """
    What a command works with.

    Attributes:
        now: seconds since 1970.
    """

    records: Records
    jobs: Queue
    callbacks: Queue
    now: float

    async def job(self, job_id: str) -> Job:
        """The job of that id. Raises Refused if there is none."""
        return await _known(self.records.view, job_id)


Command: TypeAlias = Callable[[argparse.Namespace, Desk], Awaitable[str]]
"""What is done, and what is said then."""


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Let *parser* read what `run_command` does."""
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", required=True)
    listing = commands.add_parser("list", help="jobs of all clients, newest first")
    listing.add_argument(
        "--state", type=_states, default=frozenset(JobState), help="only in these states: queued,running"
    )
    listing.add_argument("--limit", type=_count, default=50, help="how many at most (50)")
    listing.add_argument("--json", action="store_true", help="a JSON array, with times and counts exact")
    listing.set_defaults(act=_list)
    acts: Sequence[tuple[str, Command, str]] = (
        ("show", _show, "all of one job: its files, what went wrong, its callback"),
        ("cancel", _cancel, "end a job, also while it is worked on"),
        ("retry", _retry, "queue a failed or cancelled job again, with the files that it has not got"),
        ("replay", _replay, "send the webhook of an ended job again, as the same message"),
    )
    for name, act, about in acts:
        one = commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
        one.add_argument("id", type=str.lower, help="the id of the job")
        if name == "show":
            one.add_argument("--json", action="store_true", help="as a JSON object")
        one.set_defaults(act=act)


def run_command(
    arguments: argparse.Namespace, settings: Settings, clock: Callable[[], float] = time.time
) -> int:
    """
    Do what `add_commands` has read.

    Args:
        clock: seconds since 1970.

    Returns:
        The exit code: 0; 1 if there is no such job or its state does not allow that; 3 if the job store
        cannot be used. What is wrong is one line on standard error.
    """
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    where = settings.data_dir if settings.redis_url is None else shown(settings.redis_url)
    try:
        told = asyncio.run(_run(arguments, settings, clock))
    except Refused as error:
        return _fail(EXIT_REFUSED, str(error))
    except JobStoreError as error:
        return _fail(EXIT_STORE, f"{where}: {error.detail}")
    except RedisError as error:
        return _fail(EXIT_STORE, f"{where}: the job store answered: {error}")
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    _print(told)
    return 0


async def _run(arguments: argparse.Namespace, settings: Settings, clock: Callable[[], float]) -> str:
    async with _open_desk(settings, clock) as desk:
        command: Command = arguments.act
        return await command(arguments, desk)


@asynccontextmanager
async def _open_desk(settings: Settings, clock: Callable[[], float]) -> AsyncIterator[Desk]:
    """
    An embedded store that does not run is started for as long as the block: there may be jobs in its files.

    Raises:
        JobStoreError: the store does not answer, or there never was one.
    """
    config = JobStoreConfig(settings.redis_url, Path(settings.data_dir))
    if config.url is None and not (config.data_dir / FOLDER).exists():
        raise JobStoreError("There is no job store in this folder: no server has used it.")
    async with open_job_store(config) as store:
        await store.check()
        async with (
            open_queue(store.url, JOB, _not_here, 1) as jobs,
            open_queue(store.url, CALLBACK, _not_here, 1) as callbacks,
        ):
            yield Desk(Records(store.redis, clock, keep=settings.download_keep), jobs, callbacks, clock())


async def _not_here(job_id: str, look: int) -> Again | None:
    """A `server.downloads.engine.Work` for a process that only fills queues."""
    raise NotImplementedError


async def _list(arguments: argparse.Namespace, desk: Desk) -> str:
    found: list[Summary] = []
    cursor, more = None, True
    while more and len(found) < arguments.limit:
        page = await desk.records.all_jobs(arguments.state, min(arguments.limit - len(found), PAGE), cursor)
        found += page.jobs
        cursor, more = page.next, page.next is not None
    if arguments.json:
        return _json([{**documents.summary(job), **_more(job)} for job in found])
    head = ("ID", "STATE", "FILES", "PERCENT", "CREATED", "AGE", "CLIENT", "ERROR")
    rows = (
        (
            job.id,
            job.state.value,
            f"{job.completed}/{job.total}",
            f"{job.percent} %",
            _time(job.created),
            _age(desk.now - job.created),
            job.client,
            job.error,
        )
        for job in found
    )
    return table(head, rows)


async def _show(arguments: argparse.Namespace, desk: Desk) -> str:
    job = await desk.job(arguments.id)
    if arguments.json:
        told = documents.status(job)
        if job.callback is not None:
            told["callback"]["origin"] = _origin(job.callback)
        return _json({**told, **_more(job)})
    facts = (
        ("state", f"{job.state.value}, {job.percent} %"),
        ("error", job.error),
        ("client", job.client),
        ("request", job.request_id),
        ("created", f"{_time(job.created)}, {_age(desk.now - job.created)} ago"),
        ("started", _time(job.started)),
        ("ended", _time(job.ended)),
        ("expires", _time(job.expires)),
        ("runs", job.run),
        ("last event", job.last_event),
        ("callback", _told(job.callback)),
    )
    head = ("FILE", "STATE", "PERCENT", "SIZE", "ATTEMPTS", "ERROR")
    files = (
        (file.id, file.state.value, f"{file.percent} %", file.size, file.attempts, file.error)
        for file in job.files
    )
    return f"{table(('job', job.id), facts)}\n{table(head, files)}"


async def _cancel(arguments: argparse.Namespace, desk: Desk) -> str:
    job = await _known(desk.records.cancel, arguments.id)
    if job.state is not JobState.CANCELLED:
        raise Refused(f"The job is {job.state}: it has ended already.")
    await desk.jobs.drop(job.id)
    if job.owes:
        await desk.callbacks.put(job.id, job.client)
    return f"{job.id} is cancelled.\n"


async def _retry(arguments: argparse.Namespace, desk: Desk) -> str:
    job = await desk.job(arguments.id)
    if job.state not in (JobState.FAILED, JobState.CANCELLED):
        raise Refused(f"The job is {job.state}: only one that has failed or was cancelled can be retried.")
    await _known(desk.records.revive, job.id)
    # Else the next attempt to tell of the old end would delay that of the new one.
    await desk.callbacks.drop(job.id)
    await desk.jobs.put(job.id, job.client)
    return f"{job.id} is queued again.\n"


async def _replay(arguments: argparse.Namespace, desk: Desk) -> str:
    job = await desk.job(arguments.id)
    if job.callback is None:
        raise Refused("The job has no callback.")
    if job.state not in ENDED:
        raise Refused(f"The job is {job.state}: its end is told when it comes.")
    await _known(desk.records.owe, job.id)
    await desk.callbacks.drop(job.id)  # a next attempt may be due in hours
    await desk.callbacks.put(job.id, job.client)
    return f"The webhook of {job.id} is sent again.\n"


async def _known(ask: Callable[[str], Awaitable[Job | None]], job_id: str) -> Job:
    """What *ask* answers about the job. Raises Refused if there is none of that id."""
    try:
        job = await ask(job_id)
    except ValueError:
        job = None
    if job is None:
        raise Refused(f"There is no job {job_id!r}.")
    return job


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """
    *head* and *rows*, a line each, in columns that are as wide as they need to be; the last one may be of any
    width. None is a dash, and what would move the cursor a question mark.
    """
    cells = [[_cell(one) for one in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
    return "".join(f"{line}\n" for line in lines)


def _cell(one: object) -> str:
    text = "-" if one is None else str(one)
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _time(seconds: float | None) -> str | None:
    """To the second, in UTC."""
    moment = documents.moment(seconds)
    return moment and f"{moment[:19]}Z"


def _age(seconds: float) -> str:
    """In the largest unit that fits twice, so that it is never wrong by more than a third."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def _told(callback: Callback | None) -> str | None:
    if callback is None:
        return None
    tries = "1 attempt" if callback.attempts == 1 else f"{callback.attempts} attempts"
    detail = f": {callback.detail}" if callback.detail else ""
    return f"{_origin(callback)}, {callback.state}, {tries}{detail}"


def _origin(callback: Callback) -> str:
    return str(URL(callback.url).origin())


def _more(job: Job | Summary) -> dict[str, Any]:
    """What its owner need not be told."""
    return {"client": job.client, "requestId": job.request_id, "runs": job.run}


def _json(told: object) -> str:
    return orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n"


def _states(text: str) -> frozenset[JobState]:
    try:
        return frozenset(JobState(one.strip()) for one in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(JobState)}, separated by commas") from None


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 1000000")
    return int(text)


def _fail(code: int, why: str) -> int:
    print(why, file=sys.stderr)  # noqa: T201 - an operator reads it, not a collector of logs
    return code


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # its reader has seen enough; and Python is not to try again at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
