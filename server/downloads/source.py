"""The slow source of files, and how a file is fetched from it: in steps, each with a deadline of its own.

A step is one ranged GET through the core, tried again when that may help; so a connection that breaks costs a
step and not the file, and no more than a step is held at a time. What a source has to do is
docs/reference/file-source.rst. This room knows no jobs, and of the store only that chunks can be put.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias, cast

from server.downloads.objects import ObjectStore, object_key
from strategies import Answered, Deadline, Failed, Outcome, Rejected, Request, Result, Strategy, Target, value
from upstream.call import Answer, Call

UPSTREAM, OPERATION, ROUTE = "files", "file", "download"

FIRST_STEP = 8 * 1024
"""Bytes; the answer tells how many there are."""
STEPS = 10
"""For a file that is neither small nor large."""
SMALLEST_STEP, LARGEST_STEP = 8 * 1024, 512 * 1024
LARGEST_FILE = 48 * 1024**3
"""Bytes; what 10,000 parts of an upload hold."""
TRIES = 5
"""Of a step."""
PAUSE, LONGEST_PAUSE = 1.0, 10.0
LONGEST_WISH = 120.0
"""Seconds that a source may ask us to wait; what it asks beyond that it does not get."""
PATIENCE = 600.0
"""Seconds for which a step waits for the circuit to close, or the source to be there: nobody was asked."""
UNREACHED = frozenset({"connect_error", "dns_error"})
"""Failures before anything was sent, as while the source starts again."""
VERSIONS = 3
"""Of a file that changes while it is fetched: the first, and two more."""

OnProgress: TypeAlias = Callable[[int, int], Awaitable[None]]
"""Told after each step how many bytes were handed on so far, and of how many."""


class NoSuchFile(Exception):
    """The source does not have that file."""


class SourceFailed(Exception):
    """
    The file could not be had, and trying again now will not help.

    Attributes:
        detail: one sentence that says why, fit for callers.
        attempts: how often the step that failed was tried.
    """

    def __init__(self, detail: str, attempts: int) -> None:
        super().__init__(detail)
        self.detail = detail
        self.attempts = attempts


class FileChanged(Exception):
    """There is another version of the file now; what was fetched of the former one is of no use."""


@value
class Version:
    """
    Of what file the bytes are.

    Attributes:
        total: its size in bytes.
        etag: a strong one; None for a file that came whole.
    """

    total: int
    etag: str | None


@value
class Piece:
    """The bytes of one step."""

    version: Version
    body: bytes


@value
class Setback:
    """
    A try of a step that did not succeed.

    Attributes:
        why: to be read after "The file source".
        wait: seconds before which the next one is of no use.
        refused: the source was not asked.
        final: no later one will do better.
    """

    why: str
    wait: float = 0.0
    refused: bool = False
    final: bool = False


class Source:
    """
    Args:
        strategy: gives the strategy that asks the one target once, when the application has started.
        step_timeout: seconds that a try of a step may take.
        clock: the loop's, in seconds.
        rng: decides how long is waited between tries.
    """

    def __init__(
        self,
        strategy: Callable[[], Strategy[Any]],
        step_timeout: float,
        clock: Callable[[], float],
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._strategy = strategy
        self._step_timeout = step_timeout
        self._clock = clock
        self._rng = rng
        self._sleep = sleep

    async def fetch(self, file_id: int, on_progress: OnProgress) -> AsyncGenerator[bytes, None]:
        """
        The bytes of a file, in order, a step at a time. Close it; cancelling whoever waits for it ends the
        call that is under way.

        Raises:
            NoSuchFile, SourceFailed: there is no more to come.
            FileChanged: begin anew.
        """
        done, version = 0, None
        while version is None or done < version.total:
            piece = await self._step(file_id, done, version)
            version = piece.version
            done += len(piece.body)
            yield piece.body
            del piece  # not kept while the next is fetched
            await on_progress(done, version.total)

    async def _step(self, file_id: int, first: int, version: Version | None) -> Piece:
        """The bytes from *first* on, tried until they are there or no hope is left."""
        last = first + step_size(first, version) - 1
        call = Request(ROUTE, (Target(UPSTREAM, call_for(file_id, first, last, version)),))
        tries = refusals = 0
        patient_until = self._clock() + PATIENCE
        while True:
            due = Deadline.after(self._step_timeout, now=self._clock())
            found = read(await self._strategy().execute(call, due), first, last, version)
            if isinstance(found, Piece):
                return found
            tries += not found.refused
            refusals = refusals + 1 if found.refused else 0
            tired = found.refused and self._clock() >= patient_until
            if found.final or tries >= TRIES or tired:
                raise SourceFailed(f"The file source {found.why}.", tries)
            await self._sleep(found.wait + pause(refusals or tries, self._rng))


async def store_file(store: ObjectStore, source: Source, file_id: int, on_progress: OnProgress) -> int:
    """
    Fetch a file and store it, all of one version; returns its size in bytes.

    Progress never goes back, though the file may have to be fetched anew. What *on_progress* raises ends it.

    Raises:
        NoSuchFile, SourceFailed: of the source.
        server.downloads.objects.StoreError: of the store.
    """
    furthest = 0.0

    async def forwards(done: int, total: int) -> None:
        nonlocal furthest
        if done / total > furthest:
            furthest = done / total
            await on_progress(done, total)

    for _ in range(VERSIONS):
        try:
            async with aclosing(source.fetch(file_id, forwards)) as chunks:
                return await store.put(object_key(file_id), chunks)
        except FileChanged:
            continue
    raise SourceFailed("The file changed each time it was fetched.", VERSIONS)


def step_size(done: int, version: Version | None) -> int:
    """Bytes to ask for next; the same for all steps of a file but the first and the last."""
    if version is None:
        return FIRST_STEP
    even = -(-(version.total - FIRST_STEP) // (STEPS - 1))
    return min(max(even, SMALLEST_STEP), LARGEST_STEP, version.total - done)


def pause(tries: int, rng: random.Random) -> float:
    """Seconds to wait after so many *tries*: exponential back-off with full jitter."""
    return rng.uniform(0.0, min(LONGEST_PAUSE, PAUSE * 2.0 ** min(tries - 1, 10)))


def call_for(file_id: int, first: int, last: int, version: Version | None) -> Call:
    """The call for a part of a file, of that *version* if one is known."""
    headers = [("Range", f"bytes={first}-{last}"), ("Accept", "*/*"), ("Accept-Encoding", "identity")]
    if version is not None and version.etag is not None:
        headers.append(("If-Match", version.etag))
    return Call("GET", ("files", str(file_id)), None, OPERATION, tuple(headers))


def read(result: Result, first: int, last: int, version: Version | None) -> Piece | Setback:
    """
    What *result* says about the bytes from *first* to *last*, of that *version* if one is known.

    Raises:
        NoSuchFile, FileChanged: there are no such bytes.
    """
    if result.winner is not None:
        return _piece(cast(Answer, result.winner.value), first, last, version)
    if not result.outcomes:
        return Setback("did not answer in time")
    return _failure(result.outcomes[0], version)


def _failure(outcome: Outcome, version: Version | None) -> Setback:
    if isinstance(outcome, Answered):
        status = cast(Answer, outcome.value).status
        if status in (404, 410):
            raise NoSuchFile
        if status in (412, 416) and version is not None:
            raise FileChanged
        if status not in (408, 429) and status < 500:
            return Setback(f"answered with status {status}", final=True)
        return Setback(f"answered with status {status}", min(outcome.retry_after or 0.0, LONGEST_WISH))
    if isinstance(outcome, Rejected):
        return Setback("has failed too often of late", outcome.retry_after or 0.0, refused=True)
    if isinstance(outcome, Failed) and outcome.reason == "too_large":
        return Setback("sends more than it was asked for", final=True)
    if outcome.reason == "timeout":
        return Setback("did not answer in time")
    return Setback(f"could not be reached ({outcome.reason})", refused=outcome.reason in UNREACHED)


def _piece(answer: Answer, first: int, last: int, version: Version | None) -> Piece | Setback:
    """A part that is exactly what was asked for, or the whole file if nothing of it is there yet."""
    if answer.status == 200:
        if version is not None or not answer.body:
            return Setback("sent a whole file when asked for a part" if version else "sent an empty file")
        return Piece(Version(len(answer.body), None), answer.body)
    told = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    etag = answer.headers.get("ETag", "")
    if told is None or not _STRONG.fullmatch(etag):
        return Setback("sent a part without saying which")
    if version is None:
        version = Version(int(told[3]), etag)
    if version.etag != etag:
        raise FileChanged
    if version.total > LARGEST_FILE:
        return Setback("has a file that is too large", final=True)
    last = min(last, version.total - 1)
    if tuple(map(int, told.groups())) != (first, last, version.total):
        return Setback("sent another part than it was asked for")
    if len(answer.body) != last - first + 1:
        return Setback("sent a part that is not as long as it says")
    return Piece(version, answer.body)


_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_STRONG = re.compile(r'"[!#-~]*"')
