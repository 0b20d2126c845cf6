"""One subscribed connection to the store, for all channels that this process wants to hear.

A published message is lost to those who are not connected, so this tells, with each message, the other half:
from when on a channel is heard. That is said again after each reconnect, and whoever is told has to look up
what happened before. It does not know what is published.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

log = logging.getLogger("hedgerow.downloads")

PATIENCE = 2.0
"""Seconds for a connection to come about, and for a command to be written."""
SILENCE = 5.0
"""Seconds without a word after which the store is asked for one; after as many more it is given up."""
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
"""Seconds before the next try to connect, or up to half less; doubled each time, up to the longest."""
FAULTS = (RedisError, OSError)


class Channels:
    """
    The subscriptions of this process; `run` has to be running.

    Args:
        redis: for one connection; made by `subscriber`.
        heard: called with a channel and a message.
        subscribed: called with a channel of which nothing is missed from now on; after each reconnect again.
        rng: 0 to 1.
        silence: see `SILENCE`.
    """

    def __init__(
        self,
        redis: Redis,
        heard: Callable[[str, bytes], None],
        subscribed: Callable[[str], None],
        rng: Callable[[], float],
        silence: float = SILENCE,
    ) -> None:
        self._redis = redis
        self._heard = heard
        self._subscribed = subscribed
        self._rng = rng
        self._silence = silence
        self._wanted: set[str] = set()
        self._live: set[str] = set()  # as the store has confirmed
        self._changed: set[str] = set()  # wanted or no longer, and the store has not been told
        self._change = asyncio.Event()
        self._silent = False  # since it was asked for a word
        self._lost = False
        self._pause = FIRST_PAUSE

    def add(self, channel: str) -> None:
        """Want to hear *channel*. If it is heard already, nothing is called to say so: see `is_live`."""
        self._wanted.add(channel)
        self._note(channel)

    def drop(self, channel: str) -> None:
        """Want it no more."""
        self._wanted.discard(channel)
        self._note(channel)

    def is_live(self, channel: str) -> bool:
        """Whether *channel* is heard now."""
        return channel in self._live

    async def run(self) -> None:
        """Connect, listen, and connect again, until cancelled."""
        while True:
            try:
                await self._listen()
            except FAULTS as error:
                self._tell_of(error)
            except Exception as error:
                log.error("a bug: following the job store failed", exc_info=error)
            self._live.clear()
            await asyncio.sleep(self._pause * (1 - self._rng() / 2))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _listen(self) -> None:
        """On one connection, until it breaks."""
        async with self._redis.pubsub() as pubsub:
            async with asyncio.timeout(PATIENCE):
                await pubsub.ping()
            both = [
                asyncio.create_task(self._read(pubsub), name="job channels: read"),
                asyncio.create_task(self._ask(pubsub), name="job channels: ask"),
            ]
            try:  # a TaskGroup, before Python 3.13, may lose our own cancellation when one of them fails
                ended, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for one in ended:
                    one.result()
            finally:
                for one in both:
                    one.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=None)
            if message is None:
                continue
            self._silent = False
            kind = message["type"]
            if kind == "message":
                self._heard(message["channel"].decode(), message["data"])
            elif kind == "subscribe":
                self._confirmed(message["channel"].decode())
            elif kind == "unsubscribe":
                self._live.discard(message["channel"].decode())
            elif kind == "pong" and not self._wanted:  # else it is well when a channel is
                self._found()
            await asyncio.sleep(0)  # messages that are here already would not let others have a turn

    async def _ask(self, pubsub: PubSub) -> None:
        """Tell the store what is wanted, and look whether it is still there."""
        clock = asyncio.get_running_loop().time
        self._silent = False
        self._changed = set(self._wanted)
        told: set[str] = set()
        look = clock() + self._silence
        while True:
            async with asyncio.timeout(PATIENCE):
                await self._tell(pubsub, told)
            try:
                async with asyncio.timeout_at(look):
                    await self._change.wait()
            except TimeoutError:
                if self._silent:
                    raise ConnectionError("the job store is silent") from None
                self._silent = True
                async with asyncio.timeout(PATIENCE):
                    await pubsub.ping()
                look = clock() + self._silence

    async def _tell(self, pubsub: PubSub, told: set[str]) -> None:
        """Bring what the store was *told* up to what is wanted."""
        changed, self._changed = self._changed, set()
        self._change.clear()
        if more := (changed & self._wanted) - told:
            told |= more
            await pubsub.subscribe(*more)
        if less := (changed - self._wanted) & told:
            told -= less
            await pubsub.unsubscribe(*less)

    def _note(self, channel: str) -> None:
        self._changed.add(channel)
        self._change.set()

    def _confirmed(self, channel: str) -> None:
        """Also if it is no longer wanted: it may be wanted again before the store is told."""
        self._found()
        self._live.add(channel)
        self._subscribed(channel)

    def _found(self) -> None:
        self._pause = FIRST_PAUSE
        if self._lost:
            self._lost = False
            log.info("the job store can be followed again")

    def _tell_of(self, error: Exception) -> None:
        if not self._lost:
            self._lost = True
            text = str(error) or type(error).__name__
            log.warning("the job store cannot be followed, trying again: %s", text)


def subscriber(url: str) -> Redis:
    """
    A client for `Channels`, which never retries by itself.

    RESP2: with hiredis, pushes of RESP3 pile up. And no timeouts of the library's own: it has `wait_for`
    around what it sends, which before Python 3.12 may lose a cancellation.
    """
    return Redis.from_url(url, protocol=2, socket_timeout=None, retry=Retry(NoBackoff(), 0, ()))
