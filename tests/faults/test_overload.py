"""Group G: more than there is room for. What the limit does over time is simulated; this is real."""

from __future__ import annotations

import asyncio
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.process import server
from tests.server.raw import get, servers, until

CROWD = 4_000


@contextmanager
def room_for(files: int) -> Iterator[int]:
    """This process, and those that it starts, may open so many *files*, or as many as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = files if hard == resource.RLIM_INFINITY else min(files, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    try:
        yield max(soft, allowed)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def crowd(port: int, size: int) -> Iterator[list[socket.socket]]:
    """So many connections, all opened before anybody looks at the first."""
    callers = []
    try:
        for _ in range(size):
            caller = socket.socket()
            callers.append(caller)
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
        yield callers
    finally:
        for caller in callers:
            caller.close()


@pytest.mark.fault(75)
async def test_a_crowd_that_comes_at_once_is_let_in() -> None:
    """Every twentieth asks something and is answered; so is, meanwhile, who was there before."""
    loop = asyncio.get_running_loop()
    with room_for(CROWD + 500) as files:
        size = min(CROWD, files - 500)
        async with server(SIMULATOR_LATENCY="constant:1") as running:
            before = await running.connect()
            assert (await before.ask("/api/first"))[0] == 200
            with crowd(running.port, size) as callers:
                meanwhile = asyncio.create_task(before.ask("/api/first?timeout=5000"))
                for caller in callers[::20]:
                    await loop.sock_sendall(caller, get("/health"))
                heads = await asyncio.gather(*(loop.sock_recv(caller, 15) for caller in callers[::20]))
                assert set(heads) == {b"HTTP/1.1 200 OK"}
                assert (await meanwhile)[0] == 200


@pytest.mark.fault(75, 76)
async def test_without_file_descriptors_who_is_connected_is_served() -> None:
    """256 for 400 callers: no spin on what cannot be accepted, and all is well when they have gone."""
    async with server(files=256, SIMULATOR_LATENCY="constant:400") as running:
        before = await running.connect()
        both = (200, b'[{"time": 400}, {"time": 400}]')
        assert await before.ask("/api/within-timeout") == both
        with crowd(running.port, 400):
            used = running.cpu
            assert await before.ask("/api/within-timeout?timeout=20000") == both  # takes 400 ms
            assert await before.ask("/api/within-timeout?timeout=20000") == both
            assert running.cpu - used < 0.4
        after = await running.connect()
        assert (await after.ask("/health"))[0] == 200


@pytest.mark.fault(78)
async def test_whoever_watches_sees_a_server_that_refuses() -> None:
    """Fifty callers ask again as soon as they are refused; health and metrics come within 100 ms of CPU."""
    async with servers(LOAD_SHEDDING="on", ACCESS_LOG="off") as start:
        one = await start()
        one.full()
        watcher = await one.connect()
        refused = 0

        async def insist() -> None:
            nonlocal refused
            caller = await one.connect()
            while True:
                status, _, _ = await caller.ask(get("/api/first?timeout=500"))
                assert status == 503
                refused += 1

        insisting = [asyncio.create_task(insist()) for _ in range(50)]
        await until(lambda: refused > len(insisting))
        took, before = [], refused
        for path in ("/health", "/metrics") * 5:
            asked = time.process_time()  # nobody rests here; what other processes do is not ours
            status, _, _ = await watcher.ask(get(path))
            took.append(time.process_time() - asked)
            assert status == 200
        assert refused > before + len(took)
        for caller in insisting:
            assert not caller.done()
            caller.cancel()
        await asyncio.wait(insisting)
    assert statistics.median(took) < 0.1
