"""Following jobs: whoever waits here for a job's events gets all of them, in order, each once.

What the store publishes only makes it fast. The truth is the job's stream, and a follower reads it from where
it stands whenever it may have missed something: when its channel is heard, for the first time or again; when
it was too slow; and now and then for no reason. It knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from redis.asyncio import Redis

from server.downloads.channels import FAULTS, SILENCE, Channels, subscriber
from server.downloads.jobs import ENDED, Event, Job
from server.job_store.faults import JobStoreError
from strategies import value

log = logging.getLogger("hedgerow.downloads")

MOST = 64
"""Events that wait for one follower. One that is slower reads them from the stream when it comes."""
PAGE = 100
"""Events read at once: a job of a thousand files has twelve thousand."""
READERS = 8
"""Reads at once. After a reconnect every follower wants one, and others need the store too."""
RETRY = 1.0
"""Seconds before a failed read is tried again, up to half more. While nothing is heard, it is not."""
LOOK = 30.0
"""Seconds in which each job that is followed is looked up once, whatever was heard."""
LAST = frozenset(str(state) for state in ENDED)
"""The kinds of events after which, as a rule, nothing more comes."""
START = "0-0"
_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_END_OF_IDS = 2**64


def place(event_id: str) -> tuple[int, int]:
    """An event's place in its stream, to be compared. Raises ValueError if that is no event's id."""
    found = _ID.fullmatch(event_id)
    at = (int(found[1]), int(found[2])) if found else (_END_OF_IDS, 0)
    if max(at) >= _END_OF_IDS:
        raise ValueError("an event's id is two numbers below 2^64, as in 1700000000000-0")
    return at


class Page(Protocol):
    """Events from a stream; not *complete* if there were others before them that are no longer known."""

    @property
    def events(self) -> tuple[Event, ...]: ...
    @property
    def complete(self) -> bool: ...


class Records(Protocol):
    """What is needed of the job records."""

    async def events(self, job_id: str, after: str, count: int) -> Page:
        """Up to *count* events after that id."""

    async def view(self, job_id: str) -> Job | None:
        """The job as it stands."""


@value
class Resync:
    """In place of events that are no longer known: the job as it stands. What follows comes after it."""

    job: Job

    @property
    def id(self) -> str:
        """Of the latest event that *job* contains."""
        return self.job.last_event


class Follower:
    """One who follows a job. Made by `Feed.follow`; for one task."""

    def __init__(
        self,
        job_id: str,
        after: str,
        records: Records,
        turns: asyncio.Semaphore,
        retry_after: Callable[[], float | None],
    ) -> None:
        self._job_id = job_id
        self._records = records
        self._turns = turns
        self._retry_after = retry_after
        self._id = after  # of the last event that was given out
        self._latest = place(after)  # of all that were taken in
        self._waiting: list[Event] = []
        self._behind = False
        self._over = False  # the last event that was given out is one of `LAST`
        self._stopped = False
        self._news = asyncio.Event()

    async def next(self) -> tuple[Event | Resync, ...]:
        """
        What comes next, as soon as there is something; while the store is away, when it is back.

        Nothing: the job has come to its end, or is no longer known, or `stop` was called. It can be
        cancelled, and asked again.
        """
        while not self._stopped:
            if self._behind:
                if found := await self._catch_up():
                    return self._give(found)
            elif self._waiting:
                found, self._waiting = self._waiting, []
                return self._give(found)
            elif self._over:
                break
            else:
                self._news.clear()
                await self._news.wait()
        return ()

    def stop(self) -> None:
        """Nothing more is wanted: `next` gives nothing from now on."""
        self._stopped = True
        self._news.set()

    def take(self, event: Event, at: tuple[int, int]) -> None:
        """The feed has heard *event*."""
        if self._behind or at <= self._latest:
            return
        if len(self._waiting) >= MOST:
            self.fall_behind()
            return
        self._latest = at
        self._waiting.append(event)
        self._news.set()

    def fall_behind(self) -> None:
        """The feed may have missed an event."""
        self._behind = True
        self._waiting = []
        self._news.set()

    async def _catch_up(self) -> Sequence[Event | Resync]:
        """Read on from the last event that was given out."""
        self._behind, self._waiting = False, []  # what is heard from now on may be in the page, or after it
        self._latest = place(self._id)
        try:
            async with self._turns:
                with _heeded():
                    found, more = await self._read()
        except (JobStoreError, *FAULTS) as error:
            log.debug("the events of a job cannot be read now: %s", error)
            self._behind = True
            await self._pause(self._retry_after())
            return ()
        except BaseException:
            self._behind = True
            raise
        if found:
            self._latest = max(self._latest, place(found[-1].id))
            self._waiting = [one for one in self._waiting if place(one.id) > place(found[-1].id)]
        if more:
            self.fall_behind()
        return found

    async def _read(self) -> tuple[Sequence[Event | Resync], bool]:
        """A page, and whether there is more. One event more is asked for, so that this is never a guess."""
        page = await self._records.events(self._job_id, self._id, PAGE + 1)
        if page.complete:
            return page.events[:PAGE], len(page.events) > PAGE
        self._latest = (0, 0)  # the stream may have been set back
        job = await self._records.view(self._job_id)
        if job is None:
            self.stop()
            return (), False
        return (Resync(job),), False

    def _give(self, found: Sequence[Event | Resync]) -> tuple[Event | Resync, ...]:
        self._id = found[-1].id
        self._over = is_last(found[-1])
        return tuple(found)

    async def _pause(self, seconds: float | None) -> None:
        """Until there are news, or for *seconds*."""
        if self._stopped:
            return
        self._news.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            pass


@contextmanager
def _heeded() -> Iterator[None]:
    """
    Raise the cancellation that came while the block ran, also if it was lost there: before Python 3.12
    `asyncio.wait_for`, with which the store's client sends, may lose one.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - we run in one
    before = task.cancelling()
    yield
    if task.cancelling() > before:
        raise asyncio.CancelledError


def is_last(item: Event | Resync) -> bool:
    """Whether the job has ended with it."""
    return item.job.state in ENDED if isinstance(item, Resync) else item.kind in LAST


class Feed:
    """
    Those who follow jobs in this process. Made by `open_feed`.

    Args:
        redis: made by `subscriber`.
        prefix: what a job's channel is called, up to its id.
    """

    def __init__(
        self, redis: Redis, records: Records, prefix: str, rng: Callable[[], float], silence: float
    ) -> None:
        self._channels = Channels(redis, self._heard, self._subscribed, rng, silence)
        self._records = records
        self._prefix = prefix
        self._rng = rng
        self._followers: dict[str, set[Follower]] = {}  # by channel
        self._turns = asyncio.Semaphore(READERS)
        self._closed = False

    @contextmanager
    def follow(self, job_id: str, after: str = START) -> Iterator[Follower]:
        """Follow the job from the event *after* that id. Raises ValueError if that is no event's id."""
        channel = self._prefix + job_id
        follower = Follower(job_id, after, self._records, self._turns, lambda: self._retry_after(channel))
        self._enter(channel, follower)
        try:
            yield follower
        finally:
            self._leave(channel, follower)

    async def ended(self, job: Job, within: float) -> bool:
        """Whether *job*, as it was seen last, has ended, or does *within* that many seconds."""
        if job.state in ENDED:
            return True
        with self.follow(job.id, job.last_event) as follower:
            try:
                async with asyncio.timeout(within):
                    while found := await follower.next():
                        if is_last(found[-1]):
                            return True
            except TimeoutError:
                pass
        return False

    async def listen(self) -> None:
        """Hear what the store publishes, until cancelled."""
        await self._channels.run()

    async def look(self) -> None:
        """Let every follower look up its job once in a while, one after the other, until cancelled."""
        while True:
            channels = list(self._followers)
            for channel in channels:
                await asyncio.sleep(LOOK / len(channels))
                self._subscribed(channel)
            if not channels:
                await asyncio.sleep(LOOK)

    def close(self) -> None:
        """Nobody gets anything from now on."""
        self._closed = True
        for followers in self._followers.values():
            for one in followers:
                one.stop()

    def _enter(self, channel: str, follower: Follower) -> None:
        if self._closed:
            follower.stop()
        followers = self._followers.setdefault(channel, set())
        followers.add(follower)
        if len(followers) == 1:
            self._channels.add(channel)
        if self._channels.is_live(channel):
            follower.fall_behind()

    def _leave(self, channel: str, follower: Follower) -> None:
        followers = self._followers[channel]
        followers.discard(follower)
        if not followers:
            del self._followers[channel]
            self._channels.drop(channel)

    def _subscribed(self, channel: str) -> None:
        for one in self._followers.get(channel, ()):
            one.fall_behind()

    def _heard(self, channel: str, message: bytes) -> None:
        """A message is an event's id, kind and data, in lines. What is not may stand for any event."""
        try:
            event_id, kind, data = message.split(b"\n", 2)
            event = Event(event_id.decode(), kind.decode(), data)
            at = place(event.id)
        except ValueError:
            self._subscribed(channel)
            return
        for one in self._followers.get(channel, ()):
            one.take(event, at)

    def _retry_after(self, channel: str) -> float | None:
        """Seconds before a failed read is tried again; None: not before *channel* is heard."""
        return RETRY * (1 + self._rng() / 2) if self._channels.is_live(channel) else None


@asynccontextmanager
async def open_feed(
    url: str,
    records: Records,
    rng: Callable[[], float],
    *,
    prefix: str = "hedgerow",
    silence: float = SILENCE,
) -> AsyncIterator[Feed]:
    """
    The feed of this process, until the end of the context. Does not wait for the store.

    Args:
        url: of the store, as in ``redis://…`` or ``unix://…``.
        rng: 0 to 1.
        prefix: what all names in the store begin with.
        silence: seconds after which a store that says nothing is asked, and after as many more given up.
    """
    redis = subscriber(url)
    feed = Feed(redis, records, f"{prefix}:events:", rng, silence)
    tasks = [
        asyncio.create_task(feed.listen(), name="job feed: listen"),
        asyncio.create_task(feed.look(), name="job feed: look"),
    ]
    try:
        yield feed
    finally:
        feed.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await redis.aclose()
