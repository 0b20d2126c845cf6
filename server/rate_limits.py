"""How often a client may ask: counted in the job store for all workers together, or here while it is away.

The counting is the library `limits`, by its moving window: no 60 seconds, wherever they begin, hold more than
the limit, where its cheaper sliding counter lets half as many again through. In this process it is an own
fixed window, because the library's memory is gone through as a whole, a thread for each client of it: 0.8 s
of CPU with 10,000 of them, again and again. It knows no routes but the two prefixes, and no settings.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar, cast

from aiohttp import web
from aiohttp.typedefs import Handler
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from server.clients import Clients
from server.errors import Problem
from strategies import value

T = TypeVar("T")

log = logging.getLogger("hedgerow.server")

CODE = "rate_limited"
PATIENCE = 0.1
"""Seconds that the store has for an answer."""
STEPS = 10
"""Into which they are divided."""
RETRY = 2.0
"""Seconds between two looks whether the store is back."""
TURNS = 8
"""Requests that ask the store at once. Those behind them wait for a turn, which is no fault of the store."""
CLOSES_WITHIN = 1.0
"""Seconds that a connection may take to open or to close."""
MOST_CLIENTS = 100_000
"""Clients that are counted in this process; beyond that, those whose window began first are forgotten."""


@value
class Rate:
    """At most *limit* requests in any *window* of whole seconds."""

    limit: int
    window: int


@value
class Standing:
    """
    Where a client stands after a request.

    Attributes:
        allowed: whether the request is within the rate.
        remaining: how many more would be, at this moment.
        reset: seconds until there will be more of them.
    """

    allowed: bool
    rate: Rate
    remaining: int
    reset: float


def headers_of(standing: Standing) -> dict[str, str]:
    """What a response says of *standing*. Seconds are whole, and rounded up: who waits them is not early."""
    rate = standing.rate
    return {
        "RateLimit-Policy": f"{rate.limit};w={rate.window}",
        "RateLimit-Limit": str(rate.limit),
        "RateLimit-Remaining": str(standing.remaining),
        "RateLimit-Reset": str(math.ceil(standing.reset)),
    }


def refusal(standing: Standing) -> Problem:
    """The 429 for a request that is beyond the rate."""
    rate = standing.rate
    detail = (
        f"More than {rate.limit} requests in {rate.window} seconds; come back after 'Retry-After' seconds."
    )
    return Problem(429, CODE, detail, headers={"Retry-After": str(max(1, math.ceil(standing.reset)))})


class OwnCounts:
    """
    Counts in this process: for each client, a window that begins with its first request.

    At the seam of two windows up to twice the limit passes, which is good enough while the store is away.
    """

    def __init__(self, rate: Rate, most: int = MOST_CLIENTS) -> None:
        self._rate = rate
        self._most = most
        self._windows: dict[str, tuple[float, int]] = {}  # the end, and the requests; the oldest first

    def hit(self, client: str, now: float) -> Standing:
        """Count a request of *client* at *now*, in seconds of a clock that never goes back."""
        self._forget(now)
        end, count = self._windows.get(client) or (now + self._rate.window, 0)
        allowed = count < self._rate.limit
        self._windows[client] = (end, count + allowed)
        return Standing(allowed, self._rate, self._rate.limit - count - allowed, end - now)

    def _forget(self, now: float) -> None:
        windows = self._windows
        while windows:
            oldest = next(iter(windows))
            if windows[oldest][0] > now and len(windows) <= self._most:
                return
            del windows[oldest]


class SharedCounts:
    """
    Counts in the store at the other end of *pool*, together with everybody who counts there.

    The store holds the times of a client's last requests under its address, which is personal data: the
    entry expires one window after the last request that was allowed, and nothing else is kept.

    What asks the store raises `RedisError` or `OSError`; how long it takes is for the caller to bound.
    """

    def __init__(self, rate: Rate, pool: ConnectionPool) -> None:
        self._rate = rate
        self._item = RateLimitItemPerSecond(rate.limit, rate.window, "client")
        self._probe = RateLimitItemPerSecond(1_000_000, 1, "probe")
        # With a pool the library looks at no address, and so takes every one that redis-py does.
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix="hedgerow:rate",
            connection_pool=cast(str, pool),  # as the library's documentation says; its annotation does not
        )
        self._windows = MovingWindowRateLimiter(storage)

    async def hit(self, client: str) -> Standing:
        """
        Count a request of *client*.

        The times are of the wall clock, ours and that of the store. If it has been put back meanwhile, what
        was counted lies in the future, and would keep the client out until then: it is forgotten.
        """
        standing = await self._hit(client)
        if standing.reset > 2 * self._rate.window:
            await self._windows.clear(self._item, client)
            standing = await self._hit(client)
        return standing

    async def _hit(self, client: str) -> Standing:
        allowed = await self._windows.hit(self._item, client)
        stats = await self._windows.get_window_stats(self._item, client)
        remaining = stats.remaining if allowed else 0
        reset = stats.reset_time - time.time()  # which is the clock that the library reads
        return Standing(allowed, self._rate, max(0, remaining), max(0.0, reset))

    async def probe(self) -> None:
        """Return if the store can do what `hit` needs: it answers, and it takes what is written."""
        await self._windows.hit(self._probe)
        await self._windows.get_window_stats(self._probe)


class RateLimiter:
    """
    Counts in the store, and in this process while the store is away, slow or full.

    Args:
        shared: None to count in this process only.
        clock: seconds, never going back.
        patience: seconds that the store has for an answer; then the request is counted here.
        retry: seconds between two looks whether the store is back.
    """

    def __init__(
        self,
        rate: Rate,
        shared: SharedCounts | None,
        clock: Callable[[], float],
        patience: float = PATIENCE,
        retry: float = RETRY,
    ) -> None:
        self._own = OwnCounts(rate)
        self._shared = shared
        self._clock = clock
        self._patience = patience
        self._retry = retry
        self._turns = asyncio.Semaphore(TURNS)
        self._away = asyncio.Event()

    @property
    def away(self) -> bool:
        """Whether the store is away, and the counting is done here."""
        return self._away.is_set()

    async def hit(self, client: str) -> Standing:
        """Count a request of *client*, which is a text of `Clients`. Never fails."""
        shared = self._shared
        if shared is not None and not self.away:
            async with self._turns:
                standing = None if self.away else await self._ask(shared, client)
            if standing is not None:
                return standing
        return self._own.hit(client, self._clock())

    async def _ask(self, shared: SharedCounts, client: str) -> Standing | None:
        try:
            return await _in_time(shared.hit(client), self._patience)
        except (RedisError, OSError):
            self._away.set()
            return None

    async def look(self, shared: SharedCounts) -> None:
        """
        Look for the store whenever it is away, until it is back. For ever; to be cancelled.

        The first look is at once. A hiccup, or a connection that had ended, is over then, and nobody is told.
        """
        while True:
            await self._away.wait()
            error = await self._failure(shared)
            if error is not None:
                log.warning("rate limits are counted in this process: the job store %s", _told(error))
                while error is not None:
                    await asyncio.sleep(self._retry)
                    error = await self._failure(shared)
                log.warning("rate limits are counted in the job store again")
            self._away.clear()

    async def _failure(self, shared: SharedCounts) -> Exception | None:
        try:
            await _in_time(shared.probe(), self._patience)
        except (RedisError, OSError) as error:
            return error
        return None


async def _in_time(asking: Awaitable[T], seconds: float) -> T:
    """
    What *asking* comes to. Raises TimeoutError after so many *seconds*, in steps that each begin when the one
    before has ended: what else keeps this process busy meanwhile counts as one step, not as a slow store.
    """
    loop = asyncio.get_running_loop()
    left = STEPS
    timer: asyncio.TimerHandle

    def step() -> None:
        nonlocal left, timer
        left -= 1
        if left:
            timer = loop.call_later(seconds / STEPS, step)
        else:
            bound.reschedule(loop.time())

    async with asyncio.timeout(None) as bound:
        timer = loop.call_later(seconds / STEPS, step)
        try:
            return await asking
        finally:
            timer.cancel()


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "did not answer in time"
    return f"failed ({type(error).__name__}: {error})"


@asynccontextmanager
async def open_rate_limiter(
    rate: Rate,
    url: str | None,
    clock: Callable[[], float],
    patience: float = PATIENCE,
    retry: float = RETRY,
) -> AsyncIterator[RateLimiter]:
    """
    A `RateLimiter` that counts in the store at *url* (``redis://``, ``rediss://``, ``unix://``; None: in this
    process), until the block ends. Opening does not wait for the store. Raises ValueError for another URL.
    """
    if url is None:
        yield RateLimiter(rate, None, clock)
        return
    pool = ConnectionPool.from_url(
        url,
        max_connections=TURNS + 1,  # one is for `look`
        socket_timeout=None,  # time has one owner
        socket_connect_timeout=CLOSES_WITHIN,
        retry=Retry(NoBackoff(), 0),
    )
    shared = SharedCounts(rate, pool)
    limiter = RateLimiter(rate, shared, clock, patience, retry)
    looking = asyncio.create_task(limiter.look(shared), name="rate-limits")
    try:
        yield limiter
    finally:
        looking.cancel()
        await asyncio.wait({looking})
        with suppress(RedisError, OSError):
            await pool.disconnect()


STANDING = web.RequestKey("STANDING", Standing)


def covers(path: str) -> bool:
    """Whether the limit is for requests of *path*, which is decoded: the router reads ``/%761/`` as well."""
    return path == "/" or path.startswith("/v1/")


def limit_rates(app: web.Application, limiter: Callable[[], RateLimiter], clients: Clients) -> None:
    """
    Limit how often clients may ask *app*, and tell where they stand on every response, streams included.

    Call it when the edge is bound, which gives a refusal its form. Nothing of a body has been read then.

    Args:
        limiter: gives the limiter, once the application has started.
    """

    @web.middleware
    async def limit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if covers(request.path):
            request[STANDING] = standing = await limiter().hit(clients.of(request))
            if not standing.allowed:
                raise refusal(standing)
        return await handler(request)

    async def tell(request: web.Request, response: web.StreamResponse) -> None:
        standing = request.get(STANDING)
        if standing is not None:
            response.headers.update(headers_of(standing))

    app.middlewares.append(limit)
    app.on_response_prepare.append(tell)
