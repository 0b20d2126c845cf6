"""The work routes in aiohttp, as they are usually written: asyncio's loop, one session, `asyncio.wait`.

The same contract as ours, without metrics, ids or headers. Usual, but with care: the pool has no limit,
losers are cancelled, and aiohttp's own timeout is off because each request has its deadline.

    python plain_aiohttp.py PORT UPSTREAM
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

LONGEST = 30.0
HEDGE_AFTER = 0.3
SESSION = web.AppKey("session", ClientSession)
UPSTREAM = web.AppKey("upstream", str)

Payload = dict[str, float]
Call = asyncio.Task[Payload | None]


async def fetch(app: web.Application) -> Payload | None:
    """The payload of one call; None unless it is a success."""
    with suppress(ClientError, ValueError):
        async with app[SESSION].get(app[UPSTREAM]) as response:
            if response.status == 200:
                body = await response.json()
                if isinstance(body, dict) and type(body.get("time")) in (int, float):
                    return body
    return None


def start(app: web.Application, times: int) -> set[Call]:
    return {asyncio.create_task(fetch(app)) for _ in range(times)}


def cancel(calls: set[Call]) -> None:
    for call in calls:
        call.cancel()


def deadline(request: web.Request) -> float:
    """On the loop's clock."""
    text = request.query.get("timeout", str(int(LONGEST * 1000)))
    if not text.isdigit() or not 1 <= int(text) <= LONGEST * 1000:
        raise web.HTTPBadRequest(text="timeout is not valid")
    return asyncio.get_running_loop().time() + int(text) / 1000


def left(until: float) -> float:
    return max(0.0, until - asyncio.get_running_loop().time())


async def first_success(calls: set[Call], until: float) -> tuple[Payload | None, set[Call]]:
    """The first success until then, and the calls that are still under way."""
    while calls and left(until) > 0:
        done, calls = await asyncio.wait(calls, timeout=left(until), return_when=asyncio.FIRST_COMPLETED)
        for call in done:
            if (payload := call.result()) is not None:
                return payload, calls
    return None, calls


async def all_(request: web.Request) -> web.Response:
    until = deadline(request)
    done, pending = await asyncio.wait(start(request.app, 2), timeout=left(until))
    cancel(pending)
    found = [payload for call in done if (payload := call.result()) is not None]
    if pending or not found:
        return web.json_response({"error": "timeout" if pending else "no success"}, status=500)
    return web.json_response(found)


async def first(request: web.Request) -> web.Response:
    until = deadline(request)
    payload, pending = await first_success(start(request.app, 2), until)
    cancel(pending)
    if payload is None:
        return web.json_response({"error": "no success"}, status=500)
    return web.json_response(payload)


async def smart(request: web.Request) -> web.Response:
    began, until = time.monotonic(), deadline(request)
    hedge_at = asyncio.get_running_loop().time() + HEDGE_AFTER
    payload, pending = await first_success(start(request.app, 1), min(hedge_at, until))
    if payload is None and left(until) > 0:
        payload, pending = await first_success(pending | start(request.app, 2), until)
    cancel(pending)
    if payload is None:
        return web.json_response({"error": "no success"}, status=503)
    return web.json_response({"time": round((time.monotonic() - began) * 1000), "api": payload})


async def ready(request: web.Request) -> web.Response:
    return web.json_response({})


async def session(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession(
        connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None, sock_connect=None)
    ) as app[SESSION]:
        yield


def main() -> None:
    app = web.Application()
    app[UPSTREAM] = sys.argv[2]
    app.cleanup_ctx.append(session)
    app.router.add_get("/api/all", all_)
    app.router.add_get("/api/first", first)
    app.router.add_get("/api/smart", smart)
    app.router.add_get("/ready", ready)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
