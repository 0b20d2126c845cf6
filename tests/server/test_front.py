"""States that a connection and the gate can get into. A fuzz and a review found each of them wrong."""

from __future__ import annotations

import asyncio
import gc
import random
import socket
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import pytest

from server.app import LIFECYCLE, SHEDDING
from server.arrival import Arrival
from server.front import FrontProtocol
from server.gate import FEW, MOST, TURN, WAIT, Gate
from server.head import LONGEST, _read, read_head
from server.listener import Listener
from server.serve import Farewell
from tests.server.raw import Serve, Server, get, servers, until

ODD = b"Content-Length: 0\r\n"
PATIENCE = 20.0
"""Seconds after which a test that waits has failed."""


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Start a server with the given settings."""
    async with servers() as start:
        yield start


def shut(server: Server) -> Callable[[], None]:
    """Whoever comes waits at the gate, until the function returned is called."""
    gate = server.app[SHEDDING].gate
    gate._turning, gate._begun = True, 10**9

    def open_again() -> None:
        gate._begun = 0
        gate._turn()

    return open_again


def refuse_all(server: Server) -> None:
    """Whoever stands in line has stood there for too long, and there is a crowd."""
    gate = server.app[SHEDDING].gate
    gate._line.extend([(0.0, gate._line.popleft()[1]) for _ in range(len(gate._line))])
    gate.in_flight = 100
    gate._turn()


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the server has read, packet by packet."""
    seen: list[bytes] = []
    original = FrontProtocol.data_received

    def spy(self: FrontProtocol, data: bytes) -> None:
        seen.append(data)
        original(self, data)

    monkeypatch.setattr(FrontProtocol, "data_received", spy)
    return seen


# The memory of heads.


def test_what_is_too_long_for_a_head_is_not_remembered() -> None:
    """A thousand uploads would stay in memory, 256 KB of each."""
    _read.cache_clear()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for n in range(256):
        read_head(b"POST /x HTTP/1.1\r\n%05d" % n + b"x" * 200_000)
    kept = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    _read.cache_clear()
    assert kept < 1024 * 2 * LONGEST


# Heads.

HEAD = b"GET /api/first HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Type: a/b\r\nContent-Type: c/d\r\n",
        b"User-Agent: a\r\nUser-Agent: b\r\n",
        b"Sec-WebSocket-Key1: x\r\n",
        b"Proxy-Connection: close\r\n",
    ],
)
async def test_the_direct_way_is_never_wider_than_aiohttp(serve: Serve, fields: bytes) -> None:
    """The same status, and the same end of the connection."""
    seen = []
    for odd in (b"", ODD):
        caller = await (await serve()).connect()
        status, headers, _ = await caller.ask(get("/api/first", fields + odd))
        seen.append((status, headers.get("Connection")))
    assert seen[0] == seen[1]


async def test_three_bytes_that_end_a_head_and_begin_the_next_are_no_end(
    serve: Serve, packets: list[bytes]
) -> None:
    """``find`` gives -1 for them, and so does the length less four."""
    seen = []
    for odd in (b"", ODD):
        server = await serve()
        caller = await server.connect()
        first = get("/health")
        packets.clear()
        caller.writer.write(first[:-1])
        await until(lambda: packets)
        caller.writer.write(first[-1:] + b"GE")
        assert (await caller.answer())[0] == 200
        seen.append((await caller.ask(get("/api/first", odd)))[0])
    assert seen[0] == seen[1] == 400


# The gate.


def gate_with(now: Callable[[], float]) -> tuple[Gate, list[Callable[[], None]]]:
    soon: list[Callable[[], None]] = []
    return Gate(soon.append, now, lambda: 0.0, random.Random(1)), soon


def test_slow_turns_do_not_make_the_gate_narrow_for_good() -> None:
    """What a request costs is learnt from turns that begin FEW, so each turn must be able to."""
    assert int(TURN / MOST) >= FEW


def test_a_guest_that_fails_does_not_stop_the_gate() -> None:
    """The turn that it breaks off is never begun again."""
    world = SimpleNamespace(now=100.0)
    gate, soon = gate_with(lambda: world.now)
    told: list[str] = []

    def guest(name: str, error: Exception | None = None) -> SimpleNamespace:
        def begin() -> None:
            if error:
                raise error
            told.append(name)

        return SimpleNamespace(
            gone=False,
            begin=begin,
            refuse=lambda refusal: told.append(name),
            hopeless=lambda now, seconds: False,
            can_wait=lambda now, seconds: False,
        )

    gate._begun, gate._turning = 10**9, True
    gate.enter(guest("first"), world.now)
    gate.enter(guest("bad", RuntimeError("a bug")), world.now)
    gate._begun = 0
    with pytest.raises(RuntimeError):
        gate._turn()
    for _ in range(5):
        world.now += WAIT
        due, soon[:] = soon[:], []
        for callback in due:
            callback()
    gate.enter(guest("second"), world.now)
    for callback in soon:
        callback()
    assert sorted(told) == ["first", "second"]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/api/all?timeout=0", 400),
        ("/api/within-timeout?timeout=200", 200),
        ("/api/all?timeout=200", 500),
        ("/api/smart?timeout=200", 503),
    ],
)
@pytest.mark.parametrize("odd", [b"", ODD])
async def test_a_calm_server_keeps_the_contract_of_short_timeouts(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, target: str, status: int, odd: bytes
) -> None:
    """Nobody is overloaded, so nobody is told so."""
    monkeypatch.setattr(Arrival, "age", lambda arrival: 0.0)  # this machine may not be calm
    server = await serve(LOAD_SHEDDING="on", SIMULATOR_LATENCY="constant:5000")
    number, _, body = await (await server.connect()).ask(get(target, odd))
    assert number == status
    assert b'"overloaded"' not in body


async def test_a_timeout_that_is_none_is_told_so_also_after_a_wait(serve: Serve) -> None:
    """It came behind another request, and so it is old when it is looked at."""
    server = await serve(LOAD_SHEDDING="on", SIMULATOR_LATENCY="constant:30")
    caller = await server.connect()
    caller.writer.write(get("/api/first", ODD) + get("/api/first?timeout=0", ODD))
    assert [(await caller.answer())[0] for _ in range(2)] == [200, 400]


async def test_a_request_that_aiohttp_read_and_that_waits_at_the_gate_is_not_idle(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """Who is leaving closes idle connections; this one has asked."""
    server = await serve(LOAD_SHEDDING="on")
    caller = await server.connect()
    gate = server.app[SHEDDING].gate
    opened = shut(server)
    caller.writer.write(get("/api/first", ODD))
    await until(lambda: gate._line)
    manager = connections[0]._manager
    assert manager is not None
    farewell = Farewell(manager, server.app[LIFECYCLE])
    farewell.begin()
    farewell._close_idle(0.0, asyncio.get_running_loop().time())
    opened()
    assert (await asyncio.wait_for(caller.answer(), PATIENCE))[0] == 200


async def test_an_end_does_not_wait_for_a_request_that_was_refused_meanwhile(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """aiohttp's shutdown waits for what is in progress to say that it is over."""
    server = await serve(LOAD_SHEDDING="on")
    caller = await server.connect()
    gate = server.app[SHEDDING].gate
    shut(server)
    caller.writer.write(get("/api/first"))
    await until(lambda: gate._line)
    connections[0].close()  # as aiohttp does before
    ending = asyncio.create_task(connections[0].shutdown(10 * PATIENCE))
    await until(lambda: connections[0]._handler_waiter)
    refuse_all(server)
    assert (await caller.answer())[0] == 503
    done, _ = await asyncio.wait([ending], timeout=PATIENCE)
    assert done


async def test_a_refusal_while_draining_is_the_last_on_its_connection(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """Whoever waited at the gate when it began is told to go elsewhere, as all others are."""
    server = await serve(LOAD_SHEDDING="on")
    caller = await server.connect()
    gate = server.app[SHEDDING].gate
    shut(server)
    caller.writer.write(get("/api/first"))
    await until(lambda: gate._line)
    server.app[LIFECYCLE].draining = True
    refuse_all(server)
    status, headers, _ = await caller.answer()
    assert status == 503
    assert headers.get("Connection") == "close"


# Descriptors, memory, the end.


STOLEN = """
import asyncio, gc, os, socket, warnings
from server.arrival import Arrival
warnings.simplefilter("ignore")
loop = asyncio.new_event_loop()
listening = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listening.getsockname())
accepted, _ = listening.accept()
accepted.setblocking(False)
number, kept = accepted.fileno(), []
class Caller(asyncio.Protocol):
    def connection_made(self, transport): kept.append(Arrival(transport))
    def connection_lost(self, exc): kept.pop()
loop.run_until_complete(loop.connect_accepted_socket(Caller, accepted))
loop.close()
del accepted, loop
gc.collect()
others = [os.open("/dev/null", os.O_RDONLY) for _ in range(8)]
assert number in others
kept.clear()
gc.collect()
os.fstat(number)
"""


def test_a_loop_that_closes_under_a_connection_leaves_nobody_with_its_descriptor() -> None:
    """A protocol is told nothing then, and the kept socket closes whatever has its number by now."""
    subprocess.run([sys.executable, "-c", STOLEN], check=True, timeout=20)


async def test_a_bad_request_behind_others_leaves_them_their_answers(
    serve: Serve, packets: list[bytes]
) -> None:
    """aiohttp's parser drops all of a packet that is bad, so packets are not to be glued together."""
    seen = []
    for odd in (b"", ODD):
        server = await serve(SIMULATOR_LATENCY="constant:50")
        caller = await server.connect()
        packets.clear()
        for raw in (get("/api/first", odd), get("/health"), get("/health", b"A : b\r\n")):
            caller.writer.write(raw)
            await until(lambda: raw in packets)  # noqa: B023 - it is looked at before the next one
        seen.append([(await caller.answer())[0]])
        while not caller.reader.at_eof() and seen[-1][-1] != 400:
            seen[-1].append((await caller.answer())[0])
    assert seen == [[200, 200, 400], [200, 200, 400]]


async def test_what_comes_in_one_packet_with_an_unknown_upgrade_is_not_lost(serve: Serve) -> None:
    """aiohttp drops it, and its caller waits for ever: it must be told that the connection ends."""
    caller = await (await serve()).connect()
    raw = get("/health", b"Connection: upgrade\r\nUpgrade: h2c\r\n") + get("/health")
    _, headers, _ = await caller.ask(raw)
    if headers.get("Connection") != "close":
        assert (await asyncio.wait_for(caller.answer(), PATIENCE))[0] == 200


async def test_a_connection_that_was_answered_directly_is_freed_without_the_collector(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """It is set to look rarely."""
    server = await serve()
    left = {}
    for name, odd in (("aiohttp", ODD), ("direct", b"")):
        gc.collect()
        gc.disable()
        try:
            caller = await server.connect()
            assert (await caller.ask(get("/api/first", odd)))[0] == 200
            caller.writer.close()
            await until(lambda: connections[-1].transport is None)
            for _ in range(20):
                await asyncio.sleep(0)
            protocol = connections.pop()
            cell = weakref.ref(protocol) if hasattr(protocol, "__weakref__") else None
            before = id(protocol)
            del protocol
            left[name] = (
                cell() is not None
                if cell
                else any(id(one) == before and isinstance(one, FrontProtocol) for one in gc.get_objects())
            )
        finally:
            gc.enable()
    assert left == {"aiohttp": False, "direct": False}


async def test_whoever_is_connected_when_the_listener_closes_is_served() -> None:
    """The kernel has said yes to them; closing the socket resets them."""
    made = asyncio.Event()

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.set()
            assert isinstance(transport, asyncio.Transport)
            transport.write(b"hello")
            transport.close()

    sock = socket.create_server(("127.0.0.1", 0))
    listener = Listener(sock, Protocol)
    listener.open()
    client = socket.create_connection(sock.getsockname())
    client.settimeout(PATIENCE)
    await listener.close()
    with client:
        assert await asyncio.to_thread(client.recv, 5) == b"hello"


async def test_who_was_only_ever_refused_is_not_closed_as_one_who_never_asked(
    serve: Serve, connections: list[FrontProtocol]
) -> None:
    """The time for a first head is over when one has come."""
    server = await serve(LOAD_SHEDDING="on")
    caller = await server.connect()
    gate = server.app[SHEDDING].gate
    shut(server)
    caller.writer.write(get("/api/first"))
    await until(lambda: gate._line)
    refuse_all(server)
    assert (await caller.answer())[0] == 503
    connections[0]._head_overdue()
    gate.in_flight = 0
    assert (await caller.ask(get("/api/first")))[0] == 200


async def test_the_wait_at_the_gate_counts_also_if_more_came_meanwhile(
    serve: Serve, connections: list[FrontProtocol], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells the age of the last bytes only, and nothing at all on some systems."""
    server = await serve(LOAD_SHEDDING="on")
    caller = await server.connect()
    gate = server.app[SHEDDING].gate
    opened = shut(server)
    monkeypatch.setattr(Arrival, "age", lambda arrival: 0.0)
    caller.writer.write(get("/api/first?timeout=10000"))
    await until(lambda: gate._line)
    (came, _), *_ = gate._line
    opened()
    assert connections[0].arrived <= came
