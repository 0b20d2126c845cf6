"""The work routes in FastAPI over httpx, served by uvicorn on uvloop and httptools.

The same contract as ours, without metrics, ids or headers. The pool has no limit, losers are cancelled, and
httpx's own timeouts are off because each request has its deadline.

    python fastapi_httpx.py PORT UPSTREAM
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import uvicorn
from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse

LONGEST = 30_000
HEDGE_AFTER = 0.3
UPSTREAM = sys.argv[2]

Milliseconds = Annotated[int, Query(ge=1, le=LONGEST)]
Payload = dict[str, Any]
Call = asyncio.Task[Payload | None]

client: httpx.AsyncClient


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global client
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None) as client:
        yield


app = FastAPI(lifespan=lifespan)


async def fetch() -> Payload | None:
    """The payload of one call; None unless it is a success."""
    try:
        response = await client.get(UPSTREAM)
        body = response.json() if response.status_code == 200 else None
    except (httpx.HTTPError, ValueError):
        return None
    if isinstance(body, dict) and type(body.get("time")) in (int, float):
        return body
    return None


def start(times: int) -> set[Call]:
    return {asyncio.create_task(fetch()) for _ in range(times)}


def cancel(calls: set[Call]) -> None:
    for call in calls:
        call.cancel()


def now() -> float:
    return asyncio.get_running_loop().time()


async def first_success(calls: set[Call], until: float) -> tuple[Payload | None, set[Call]]:
    """The first success until then, and the calls that are still under way."""
    while calls and (left := until - now()) > 0:
        done, calls = await asyncio.wait(calls, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        for call in done:
            if (payload := call.result()) is not None:
                return payload, calls
    return None, calls


@app.get("/api/all")
async def all_(timeout: Milliseconds = LONGEST) -> JSONResponse:
    done, pending = await asyncio.wait(start(2), timeout=timeout / 1000)
    cancel(pending)
    found = [payload for call in done if (payload := call.result()) is not None]
    if pending or not found:
        return JSONResponse({"error": "timeout" if pending else "no success"}, 500)
    return JSONResponse(found)


@app.get("/api/first")
async def first(timeout: Milliseconds = LONGEST) -> JSONResponse:
    payload, pending = await first_success(start(2), now() + timeout / 1000)
    cancel(pending)
    if payload is None:
        return JSONResponse({"error": "no success"}, 500)
    return JSONResponse(payload)


@app.get("/api/smart")
async def smart(timeout: Milliseconds = LONGEST) -> JSONResponse:
    began, until = time.monotonic(), now() + timeout / 1000
    payload, pending = await first_success(start(1), min(now() + HEDGE_AFTER, until))
    if payload is None and now() < until:
        payload, pending = await first_success(pending | start(2), until)
    cancel(pending)
    if payload is None:
        return JSONResponse({"error": "no success"}, 503)
    return JSONResponse({"time": round((time.monotonic() - began) * 1000), "api": payload})


@app.get("/ready")
async def ready() -> JSONResponse:
    return JSONResponse({})


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning")
