"""What must be so once everything is up again: nothing lost, stuck, done twice or left over."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from server.downloads.feed import place
from server.downloads.local_objects import open_local_objects
from server.downloads.objects import PREFIX
from server.downloads.signed_urls import UrlSigner
from tests.kills.site import Acknowledged, Site
from upstream.simulator.files import archive

ENDS = ("completed", "failed", "cancelled")
QUEUES = ("hedgerow:job", "hedgerow:callback")
SIDE_BY_SIDE = 8


@asynccontextmanager
async def client(site: Site) -> AsyncIterator[Any]:
    """The job store, looked into from outside. Its types do not know that answers are decoded."""
    async with Redis.from_url(site.store.url, decode_responses=True, socket_timeout=2.0) as redis:
        yield redis


async def settled(site: Site, within: float) -> float:
    """Wait until nothing is owed and nothing is queued; returns the seconds that took."""
    began = time.monotonic()
    async with client(site) as redis:
        while True:
            try:
                left = await _left(redis)
            except RedisError as error:
                left = [repr(error)]
            took = time.monotonic() - began
            if not left:
                return took
            assert took < within, f"after {took:.0f} s still: {left[:10]}; see {site.log}"
            await asyncio.sleep(0.1)


async def _left(redis: Any) -> list[str]:
    """What the records and the queues say is not done."""
    left = [f"owed: {job_id}" for job_id in await redis.zrange("hedgerow:open", 0, -1)]
    for queue in QUEUES:
        if entries := await redis.xlen(f"{queue}:stream"):
            left.append(f"{queue}: {entries} queued")
        if later := await redis.zrange(f"{queue}:queue", 0, -1):
            left.append(f"{queue}: {later} for later")
        left += [f"parked: {key}" async for key in redis.scan_iter(f"{queue}:concurrency:*:waiters")]
    if left:
        return left
    for queue in QUEUES:
        groups = await redis.xinfo_groups(f"{queue}:stream")
        left += [f"{queue}: {group['pending']} pending" for group in groups if group["pending"]]
        async for key in redis.scan_iter(f"{queue}:runs:*", count=1000):
            state = await redis.hget(key, "state")
            if state not in ENDS:
                left.append(f"{key} is {state}")
    return left


async def faults(site: Site) -> list[str]:
    """All that is wrong with what callers see, once it has `settled`; nothing, if all is well."""
    gate = asyncio.Semaphore(SIDE_BY_SIDE)

    async def one(job: Acknowledged) -> list[str]:
        async with gate:
            return [f"{job.id}: {fault}" async for fault in _faults_of(site, job)]

    found = [fault for faults in await asyncio.gather(*map(one, site.journal)) for fault in faults]
    async with client(site) as redis:
        known = await redis.zrange("hedgerow:jobs", 0, -1)
        states = [await redis.hget(f"hedgerow:record:{job_id}", "state") for job_id in known]
    found += [f"a job is {state}" for state in states if state not in ENDS]
    if len(known) > len(site.keys):
        found.append(f"{len(known)} jobs of {len(site.keys)} keys")
    twice = [job_id for job_id, times in Counter(job.id for job in site.journal).items() if times > 1]
    return found + [f"{job_id}: acknowledged for two keys" for job_id in twice]


async def _faults_of(site: Site, job: Acknowledged) -> AsyncIterator[str]:
    status = json.loads(await site.get(f"/status/{job.id}"))
    if status["status"] != job.end:
        yield f"is {status['status']} ({status['error']})"
    events = _events(await site.get(f"/subscribe/{job.id}"))
    places = [place(event["id"]) for event in events]
    if not all(one < other for one, other in pairwise(places)):
        yield f"events out of order: {places}"
    ends = [event["event"] for event in events if event["event"] in ENDS]
    if len(ends) != 1 or events[-1]["event"] != ends[0]:
        yield f"ends {len(ends)} times: {ends}"
    if status["lastEventId"] != events[-1]["id"]:
        yield "the status and the stream differ in the last event"
    if job.end == "completed":
        for fault in _faults_of_files(site, job, [event["event"] for event in events].count("file")):
            yield fault
    told = site.receiver.ids.get(job.id, [])
    if job.callback and status["callback"]["status"] != "delivered":
        yield f"the callback is {status['callback']}"
    if job.callback and (not told or set(told) != {f"{job.id}_{events[-1]['id']}"}):
        yield f"webhooks {told}"


def _faults_of_files(site: Site, job: Acknowledged, ended: int) -> Iterator[str]:
    if ended != len(job.files):
        yield f"{ended} events of {len(job.files)} files that ended"
    for number in job.files:
        path = site.data / "objects" / PREFIX / f"{number}.zip"
        if not path.exists() or path.read_bytes() != archive(number):
            yield f"{path.name} is missing, or another file"


def _events(body: bytes) -> list[dict[str, str]]:
    """The fields of each event of a stream that has ended."""
    blocks = (block.splitlines() for block in body.decode().replace("\r\n", "\n").split("\n\n"))
    events = [dict(line.partition(": ")[::2] for line in block) for block in blocks]
    return [event for event in events if "data" in event]


async def leftovers(site: Site) -> tuple[int, list[str]]:
    """Once all is stopped: how many uploads were left half done, and what is left of them after a sweep."""
    folder = site.data / "objects"
    signer = UrlSigner(b"0" * 32, time.time)
    async with open_local_objects(folder, signer, time.time) as objects:
        swept = await objects.sweep(-1.0)
    return swept, [str(path) for path in (folder / ".incoming").iterdir()]


async def running_at(site: Site, pid: int) -> list[str]:
    """The jobs that the process with that id has taken up and not brought to an end."""
    async with client(site) as redis:
        found: list[str] = []
        for job_id in await redis.zrange("hedgerow:open", 0, -1):
            state, owner = await redis.hmget(f"hedgerow:record:{job_id}", ["state", "owner"])
            if state == "running" and owner.split(":")[1] == str(pid):
                found.append(job_id)
        return found


async def events_after(site: Site, job_id: str, millisecond: int) -> list[Any]:
    """The events of a job since a time on the store's clock, which is this machine's."""
    async with client(site) as redis:
        return list(await redis.xrange(f"hedgerow:record:{job_id}:events", f"{millisecond}", "+"))
