"""Group D: what a network does to an upstream. It fails or is late with its reason; others are not hurt."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import aiodns
import pytest

from strategies import Verdict
from tests.faults.certificates import PAST, Authority
from tests.faults.name_server import (
    NXDOMAIN,
    SERVFAIL,
    A,
    NameServer,
    always,
    never,
)
from tests.faults.trial import (
    HEALTHY,
    OK,
    Logged,
    Recovery,
    Trial,
    bodies,
    both_ways,
    pause,
    reasons,
    trial,
)
from tests.upstream.scripted import (
    Action,
    Connection,
    ScriptedUpstream,
    answer,
    close,
    half_close,
    hang,
    read,
    repeat,
    reset,
    send,
)
from upstream.session import PoolLimits

pytestmark = both_ways

HALF = OK[: len(OK) - 4]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([reset()], id="reset on connect", marks=pytest.mark.fault(39)),
        pytest.param([read(), reset()], id="reset on the request", marks=pytest.mark.fault(39)),
        pytest.param([read(), send(HALF), reset()], id="reset in the body", marks=pytest.mark.fault(39)),
        pytest.param([close()], id="closed after accept", marks=pytest.mark.fault(40)),
        pytest.param(
            [read(), half_close(), hang()], id="half-closed on the request", marks=pytest.mark.fault(42)
        ),
        pytest.param(
            [read(), send(HALF), half_close(), hang()],
            id="half-closed in the body",
            marks=pytest.mark.fault(42),
        ),
    ],
)
async def test_a_connection_that_ends_is_a_reset(
    script: Sequence[Action], fast_lane: bool, caplog: Logged
) -> None:
    """By every strategy, beside a healthy upstream; once the upstream is well, so is the next call."""
    recovery = Recovery()
    async with (
        ScriptedUpstream(recovery.script(script)) as ill,
        trial(ill.url, fast_lane, caplog) as tried,
    ):
        await tried.every_way("reset")
        recovery.well.set()
        await tried.is_well("ill")


@pytest.mark.fault(37)
async def test_a_refused_connection_fails_at_once(fast_lane: bool, caplog: Logged) -> None:
    """`connect_error`, and the same address is fine as soon as somebody listens there."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        async with trial(f"http://127.0.0.1:{port}", fast_lane, caplog) as tried:
            await tried.every_way("connect_error")


@contextmanager
def black_hole() -> Iterator[str]:
    """The URL of a port that answers no SYN, as behind a packet filter: its backlog is full and stays so."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        address = listening.getsockname()
        queue = [socket.socket() for _ in range(4)]
        for one in queue:
            one.setblocking(False)
            one.connect_ex(address)
        try:
            yield f"http://127.0.0.1:{address[1]}"
        finally:
            for one in queue:
                one.close()


@pytest.mark.fault(38)
async def test_a_black_hole_is_a_timeout(fast_lane: bool, caplog: Logged) -> None:
    """No connection is ever made: the deadline holds, and the half-made connection is closed."""
    with black_hole() as url:
        async with trial(url, fast_lane, caplog) as tried:
            await tried.every_way("timeout")


@pytest.mark.fault(41)
async def test_an_idle_connection_that_was_closed_costs_one_retry_at_most(
    fast_lane: bool, caplog: Logged
) -> None:
    """With ``retry`` the caller sees nothing of it, and the upstream sees the request twice at most."""
    once = [read(), send(OK), read(), close()]
    async with (
        ScriptedUpstream(once, once, HEALTHY) as ill,
        trial(ill.url, fast_lane, caplog, retry=True) as tried,
    ):
        await tried.is_well("ill")
        await tried.is_well("ill")  # its connection closes under it; the second one answers
        assert (ill.connections, len(ill.requests)) == (2, 3)
        await tried.is_well("ill")
        assert [reason for _, reason, _ in tried.recorder.ended].count("reset") == 2


HELLO_1_0 = bytes.fromhex("160301002a 02000026 0301" + "00" * 32 + "00 002f 00")
"""How a server begins that speaks TLS 1.0 and nothing newer."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """One for all tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


class TestTls:
    @pytest.fixture(autouse=True)
    def believed(self, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
        """Our side believes it, so that what is wrong is what the test says."""
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", authority.believer())

    @pytest.mark.fault(43)
    async def test_a_good_certificate_is_accepted(
        self, authority: Authority, fast_lane: bool, caplog: Logged
    ) -> None:
        """The counter-check of those below."""
        async with (
            ScriptedUpstream(HEALTHY, tls=authority.server("IP:127.0.0.1")) as upstream,
            trial(upstream.url, fast_lane, caplog) as tried,
        ):
            await tried.is_well("ill")

    @pytest.mark.fault(43)
    @pytest.mark.parametrize("what", ["expired", "wrong name", "self-signed"])
    async def test_what_cannot_be_believed_is_a_tls_error(
        self, what: str, authority: Authority, fast_lane: bool, caplog: Logged
    ) -> None:
        """Before a byte of the request is sent."""
        tls = {
            "expired": lambda: authority.server("IP:127.0.0.1", PAST),
            "wrong name": lambda: authority.server("DNS:elsewhere.test"),
            "self-signed": lambda: authority.server("IP:127.0.0.1", own=True),
        }[what]()
        async with (
            ScriptedUpstream(HEALTHY, tls=tls) as ill,
            trial(ill.url, fast_lane, caplog) as tried,
        ):
            await tried.every_way("tls_error")
        assert ill.requests == []

    @pytest.mark.fault(43)
    async def test_a_server_that_knows_only_tls_1_0_is_a_tls_error(
        self, fast_lane: bool, caplog: Logged
    ) -> None:
        """Its greeting is refused; we do not step down."""
        async with (
            ScriptedUpstream([send(HELLO_1_0), hang()]) as ill,
            trial(ill.url.replace("http:", "https:"), fast_lane, caplog) as tried,
        ):
            await tried.every_way("tls_error")

    @pytest.mark.fault(43)
    async def test_a_handshake_that_stalls_is_a_timeout(self, fast_lane: bool, caplog: Logged) -> None:
        """The greeting is not answered: the deadline holds, and the connection is closed."""
        async with (
            ScriptedUpstream([hang()]) as ill,
            trial(ill.url.replace("http:", "https:"), fast_lane, caplog) as tried,
        ):
            await tried.every_way("timeout")


def lossy(rng: random.Random, loss: float, again_after: float) -> Action:
    """
    Send an answer in pieces, each lost with probability *loss* and sent again after *again_after* seconds,
    and then after twice as long: what TCP makes of a link that loses packets.
    """

    async def act(connection: Connection) -> None:
        for start in range(0, len(OK), 20):
            wait = again_after
            while rng.random() < loss:
                await pause(connection, wait)
                wait *= 2
            await send(OK[start : start + 20])(connection)

    return act


@pytest.mark.fault(44)
async def test_on_a_link_that_loses_what_comes_in_time_is_whole_and_the_rest_times_out(
    fast_lane: bool, caplog: Logged
) -> None:
    """30 % loss: of twelve calls the deadline cuts those that lost something; a hedge saves them all."""
    async with (
        ScriptedUpstream([repeat(read(), lossy(random.Random(5), 0.3, 1.0))]) as ill,
        trial(ill.url, fast_lane, caplog) as tried,
    ):
        alone = await asyncio.gather(*(tried.execute("first", "ill", timeout=0.8) for _ in range(12)))
        assert {word for result in alone for word in reasons(result)} == {"success", "timeout"}
        assert all(bodies(result) in ([], [b'{"time": 1}']) for result in alone)
        saved = await asyncio.gather(*(tried.execute("hedged", "ill", "good") for _ in range(12)))
        assert all(bodies(result) == [b'{"time": 1}'] for result in saved)


def slow_link(data: bytes, rate: float) -> Action:
    """Send *data* at *rate* bytes a second."""

    async def act(connection: Connection) -> None:
        for start in range(0, len(data), 20):
            await pause(connection, 20 / rate)
            await send(data[start : start + 20])(connection)

    return act


@pytest.mark.fault(45)
async def test_on_a_slow_link_a_small_answer_comes_and_a_large_one_times_out(
    fast_lane: bool, caplog: Logged
) -> None:
    """8 kbit/s: the deadline covers the body, to its last byte."""
    large = answer(b'{"time": 1, "padding": "' + b"x" * 20_000 + b'"}')
    async with (
        ScriptedUpstream([read(), slow_link(OK, 1000), close()], [read(), slow_link(large, 1000)]) as ill,
        trial(ill.url, fast_lane, caplog) as tried,
    ):
        await tried.is_well("ill")
        assert ill.connections == 1
        await tried.every_way("timeout")


class TestNames:
    """A real look-up, by the resolver that serves the application, of a name server that the test plays."""

    @asynccontextmanager
    async def asking(
        self,
        server: str,
        port: int,
        fast_lane: bool,
        caplog: Logged,
        monkeypatch: pytest.MonkeyPatch,
        limits: PoolLimits | None = None,
    ) -> AsyncIterator[Trial]:
        """A trial of ``upstream.test:port`` whose name is looked up at *server*."""

        monkeypatch.setattr("aiohttp.resolver.aiodns.DNSResolver", partial(aiodns.DNSResolver, [server]))
        async with trial(f"http://upstream.test:{port}", fast_lane, caplog, limits) as tried:
            yield tried

    @pytest.mark.fault(46)
    @pytest.mark.parametrize("code", [NXDOMAIN, SERVFAIL], ids=["NXDOMAIN", "SERVFAIL"])
    async def test_a_name_without_an_address_is_a_dns_error(
        self, code: int, fast_lane: bool, caplog: Logged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At once."""
        async with (
            NameServer(code=code) as names,
            self.asking(names.address, 80, fast_lane, caplog, monkeypatch) as tried,
        ):
            await tried.every_way("dns_error")
            assert names.asked[A]

    @pytest.mark.fault(46)
    async def test_a_dead_name_server_is_a_dns_error(
        self, fast_lane: bool, caplog: Logged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its port is closed, which the kernel tells at once."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reserved:
            reserved.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{reserved.getsockname()[1]}"
        async with self.asking(address, 80, fast_lane, caplog, monkeypatch) as tried:
            await tried.every_way("dns_error")

    @pytest.mark.fault(46)
    async def test_a_silent_name_server_is_a_timeout(
        self, fast_lane: bool, caplog: Logged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look-up of 5 s delays nobody who has less."""
        async with (
            NameServer(never, never) as names,
            self.asking(names.address, 80, fast_lane, caplog, monkeypatch) as tried,
        ):
            await tried.every_way("timeout")
            assert names.asked[A]

    @pytest.mark.fault(46)
    async def test_an_answer_that_holds_for_no_time_does_not_mean_a_look_up_per_call(
        self, fast_lane: bool, caplog: Logged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With a TTL of 0 ten calls at once ask the name server once: ours is the word on how long."""
        async with (
            ScriptedUpstream([read(), send(OK), close()]) as upstream,
            NameServer(always("127.0.0.1"), ttl=0) as names,
            self.asking(names.address, upstream.port, fast_lane, caplog, monkeypatch) as tried,
        ):
            results = await asyncio.gather(*(tried.execute("first", "ill") for _ in range(10)))
            assert all(result.verdict is Verdict.SUCCESS for result in results)
            assert names.asked[A] == 1

    @pytest.mark.fault(46)
    async def test_a_dead_address_of_version_6_does_not_hide_the_one_of_version_4(
        self, fast_lane: bool, caplog: Logged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Both are tried."""
        async with (
            ScriptedUpstream(HEALTHY) as upstream,
            NameServer(always("127.0.0.1"), always("100::1")) as names,
            self.asking(names.address, upstream.port, fast_lane, caplog, monkeypatch) as tried,
        ):
            await tried.is_well("ill")

    @pytest.mark.fault(46)
    async def test_an_answer_that_changes_each_time_is_tried_in_full(
        self, fast_lane: bool, caplog: Logged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of two addresses one is dead, another one each time: every call finds the one that lives."""
        async with (
            ScriptedUpstream([read(), send(OK), close()]) as upstream,
            NameServer(lambda number: (f"127.0.0.{number + 2}", "127.0.0.1"), ttl=0) as names,
            self.asking(
                names.address, upstream.port, fast_lane, caplog, monkeypatch, PoolLimits(dns_ttl=0)
            ) as tried,
        ):
            for _ in range(4):
                await tried.is_well("ill")
            assert names.asked[A] == 4
