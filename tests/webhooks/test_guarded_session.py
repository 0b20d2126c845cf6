"""No connection is made to where none may be made, whatever a URL, a name server or a receiver says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import AsyncResolver
from yarl import URL

from strategies.virtual_time import run_virtual
from tests.faults.name_server import NXDOMAIN, SERVFAIL, NameServer, always, nowhere
from tests.upstream.scripted import ScriptedUpstream, answer, hang, read, send
from tests.webhooks.forms import SPELLINGS, urls
from tests.webhooks.network import HERE, TRAPPED, Alias, FakeResolver, guard_for, trap
from upstream.guard import Guard
from upstream.guarded_session import TOTAL, GuardedSession, Heard, NoReply, Reply, open_guarded_session

Dialled = list[tuple[str, int]]

OK = [read(), send(answer(b"thanks"))]
LOOPBACK = ("0.0.0.0", "::1") if socket.has_ipv6 else ("0.0.0.0",)
"""Where a trap hears of every form of loopback."""


def unchecked(text: str, guard: Guard) -> URL:
    """A registration that waves everything through."""
    return URL(text)


async def post(session: GuardedSession, url: str) -> Heard:
    """Send something there."""
    return await session.post(url, {"Content-Type": "application/json"}, b"{}")


class TestTheList:
    """The whole list of addresses and tricks, with traps on loopback and an eye on every dialling."""

    @pytest.mark.fault(98)
    async def test_nothing_on_it_is_dialled(self, dialled: Dialled) -> None:
        """All of it is denied before anything happens, the name server is not even asked."""
        resolver = FakeResolver(lambda number: [HERE])
        async with (
            trap(*LOOPBACK) as trapped,
            open_guarded_session(guard_for(trapped.port), resolver=resolver) as session,
        ):
            listed = urls(trapped.port)
            assert len(listed) > 700
            for url in listed:
                heard = await post(session, url)
                assert isinstance(heard, NoReply), url
                assert heard.reason == "denied", url
            assert (trapped.connections, dialled, resolver.asked) == (0, [], [])

    async def test_the_door_alone_holds(self, dialled: Dialled, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is dialled either when the text of the URL is not looked at, and every name is loopback."""
        monkeypatch.setattr("upstream.guarded_session.check_url", unchecked)
        resolver = FakeResolver(lambda number: [HERE, "::1"])
        async with (
            trap(*LOOPBACK) as trapped,
            open_guarded_session(guard_for(trapped.port), resolver=resolver) as session,
        ):
            denied = 0
            for url in urls(trapped.port):
                try:
                    heard = await post(session, url)
                except ValueError:
                    continue  # not even yarl takes it
                assert isinstance(heard, NoReply), url
                denied += heard.reason == "denied"
            assert denied > 300
            assert (trapped.connections, dialled) == (0, [])

    async def test_without_a_guard_the_traps_are_sprung(
        self, dialled: Dialled, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The other two would fail: with everything allowed the same URLs lead into the traps."""
        monkeypatch.setattr("upstream.guarded_session.check_url", unchecked)
        async with trap(*LOOPBACK) as trapped:
            guard = guard_for(trapped.port, allowed=["0.0.0.0/0", "::/0"])
            async with open_guarded_session(guard, resolver=FakeResolver(lambda number: [HERE])) as session:
                for name in (
                    "dotted",
                    "hex",
                    "full-width digits",
                    "ideographic dots",
                    "percent-encoded",
                    "mapped",
                ):
                    before = trapped.connections
                    await post(session, f"http://{SPELLINGS[name]('127.0.0.1')}:{trapped.port}/")
                    assert trapped.connections > before, name
                for host in ("localhost", "hooks.example.com", "0.0.0.0", "127.0.0.53", "[::ffff:127.0.0.1]"):
                    before = trapped.connections
                    await post(session, f"http://{host}:{trapped.port}/")
                    assert trapped.connections > before, host
        assert len(dialled) >= 11


class TestNames:
    """What a name server can try. `HERE` may be called, `TRAPPED` at the same port may not."""

    async def call(
        self, zone: Sequence[Sequence[str]], dialled: Dialled
    ) -> tuple[list[Heard], list[str], int, int]:
        """
        Call once for each answer in *zone*.

        Returns what was heard, which addresses were dialled, how often receiver and trap were reached.
        """
        async with AsyncExitStack() as stack:
            receiver = await stack.enter_async_context(ScriptedUpstream(OK))
            trapped = await stack.enter_async_context(trap(TRAPPED, port=receiver.port))
            guard = guard_for(receiver.port, allowed=[f"{HERE}/32"])
            session = await stack.enter_async_context(
                open_guarded_session(guard, resolver=FakeResolver(lambda number: zone[number]))
            )
            url = f"http://hooks.example.com:{receiver.port}/"
            heard = [await post(session, url) for _ in zone]
            return heard, [host for host, _ in dialled], receiver.connections, trapped.connections

    async def test_of_mixed_answers_the_private_ones_are_not_dialled(self, dialled: Dialled) -> None:
        """In whatever order they come."""
        zone = [[TRAPPED, HERE], [HERE, TRAPPED], [TRAPPED, "10.0.0.1", HERE, "::1"]]
        heard, hosts, reached, sprung = await self.call(zone, dialled)
        assert (heard, hosts, reached, sprung) == ([Reply(200)] * 3, [HERE] * 3, 3, 0)

    @pytest.mark.fault(98)
    async def test_a_name_that_changes_after_it_was_good_is_not_followed(self, dialled: Dialled) -> None:
        """Rebinding: the address that is checked is the address that is dialled, each time anew."""
        heard, hosts, reached, sprung = await self.call([[HERE], [TRAPPED], [HERE]], dialled)
        assert [type(one) for one in heard] == [Reply, NoReply, Reply]
        assert (hosts, reached, sprung) == ([HERE, HERE], 2, 0)

    @pytest.mark.parametrize(
        "addresses",
        [
            ["::1"],
            ["::ffff:127.0.0.2"],
            ["64:ff9b::7f00:2"],
            ["fe80::1", "fc00::1"],
            ["fe80::1%lo"],
            [TRAPPED] * 20,
            ["169.254.169.254"],
            ["nonsense"],
        ],
    )
    async def test_a_name_with_only_private_addresses_is_denied(
        self, addresses: list[str], dialled: Dialled
    ) -> None:
        """Of either version."""
        heard, hosts, reached, sprung = await self.call([addresses], dialled)
        assert [one.reason for one in heard if isinstance(one, NoReply)] == ["denied"]
        assert (hosts, reached, sprung) == ([], 0, 0)

    async def test_a_name_is_looked_up_for_every_call(self, dialled: Dialled) -> None:
        """No answer outlives its call."""
        heard, *_ = await self.call([[HERE]] * 3 + [[]], dialled)
        assert heard[:3] == [Reply(200)] * 3
        assert isinstance(heard[3], NoReply)
        assert heard[3].reason == "dns_error"


class TestTheRealResolver:
    """The resolver that the application uses, asking a name server that the test plays."""

    async def call(self, names: NameServer, dialled: Dialled) -> tuple[Heard, int]:
        """Call a name; what was heard, and how often the trap was reached."""
        async with trap(TRAPPED) as trapped:
            resolver = AsyncResolver(nameservers=[names.address])
            guard = guard_for(trapped.port)
            async with open_guarded_session(guard, resolver=resolver) as session:
                heard = await post(session, f"http://hooks.example.com:{trapped.port}/")
            await resolver.close()
            assert dialled == []
            return heard, trapped.connections

    async def test_an_alias_of_a_private_name_is_denied(self, dialled: Dialled) -> None:
        """CNAME."""
        async with Alias(always(TRAPPED)) as names:
            heard, sprung = await self.call(names, dialled)
            assert names.asked[1]
        assert isinstance(heard, NoReply)
        assert (heard.reason, TRAPPED in heard.detail, sprung) == ("denied", True, 0)

    async def test_a_name_with_private_addresses_of_version_6_alone_is_denied(self, dialled: Dialled) -> None:
        """AAAA."""
        async with NameServer(nowhere, always("::1")) as names:
            heard, sprung = await self.call(names, dialled)
        assert isinstance(heard, NoReply)
        assert (heard.reason, sprung) == ("denied", 0)

    @pytest.mark.parametrize("code", [NXDOMAIN, SERVFAIL], ids=["NXDOMAIN", "SERVFAIL"])
    async def test_a_name_that_is_not_found_is_not_called(self, code: int, dialled: Dialled) -> None:
        """A failed look-up opens nothing."""
        async with NameServer(code=code) as names:
            heard, sprung = await self.call(names, dialled)
        assert isinstance(heard, NoReply)
        assert (heard.reason, sprung) == ("dns_error", 0)


class TestWhatIsLeftBehind:
    """Nothing of one call is left for the next."""

    async def twice(self, *script: Any) -> tuple[list[Heard], ScriptedUpstream]:
        """Call a receiver twice."""
        async with ScriptedUpstream([read(), *script]) as receiver:
            guard = guard_for(receiver.port, allowed=[f"{HERE}/32"])
            resolver = FakeResolver(lambda number: [HERE])  # aiohttp keeps no cookies of numbers anyway
            async with open_guarded_session(guard, resolver=resolver) as session:
                url = f"http://hooks.example.com:{receiver.port}/hook?a=b"
                heard = [await post(session, url) for _ in range(2)]
            return heard, receiver

    @pytest.mark.fault(98)
    async def test_no_redirect_is_followed(self, dialled: Dialled) -> None:
        """Not even looked at."""
        async with trap(TRAPPED) as trapped:
            to = f"Location: http://{TRAPPED}:{trapped.port}/"
            for status in (301, 302, 303, 307, 308):
                heard, _ = await self.twice(send(answer(b"", to, status=f"{status} Go")))
                assert heard == [Reply(status)] * 2
            assert trapped.connections == 0
        assert {host for host, _ in dialled} == {HERE}

    async def test_every_call_has_a_connection_of_its_own(self) -> None:
        """Else it would outlive the check by which it was made."""
        _, receiver = await self.twice(send(answer()), read(), send(answer()))
        assert receiver.connections == 2
        assert [one.headers["connection"] for one in receiver.requests] == ["close"] * 2

    async def test_no_cookie_is_kept(self) -> None:
        """Of nobody."""
        _, receiver = await self.twice(send(answer(b"", "Set-Cookie: a=b; Path=/")))
        assert [one.headers.get("cookie") for one in receiver.requests] == [None] * 2

    async def test_no_proxy_of_the_environment_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It would connect where we may not."""
        async with trap(TRAPPED) as trapped:
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.delenv(name, raising=False)
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://{TRAPPED}:{trapped.port}")
            heard, _ = await self.twice(send(answer()))
            assert (heard, trapped.connections) == ([Reply(200)] * 2, 0)

    async def test_nothing_is_unpacked(self) -> None:
        """What says that it is compressed need not be."""
        heard, receiver = await self.twice(send(answer(b"not gzip", "Content-Encoding: gzip")))
        assert heard == [Reply(200)] * 2
        assert receiver.requests[0].headers["accept-encoding"] == "identity"
        async with open_guarded_session(guard_for(443)) as session:
            # What would be unpacked is thrown away, so that it cannot be seen from outside.
            assert session._session.auto_decompress is False

    async def test_what_is_sent_arrives(self) -> None:
        """Path, query and body."""
        _, receiver = await self.twice(send(answer()))
        assert receiver.requests[0].line == "POST /hook?a=b HTTP/1.1"
        assert receiver.requests[0].body == b"{}"

    async def test_a_call_that_is_cancelled_hangs_up(self) -> None:
        """And the cancellation goes on to whoever asked."""
        asked = asyncio.Event()

        async def told(_: object) -> None:
            asked.set()

        async with ScriptedUpstream([read(), told, hang()]) as receiver:
            guard = guard_for(receiver.port, allowed=[f"{HERE}/32"])
            async with open_guarded_session(guard) as session:
                call = asyncio.ensure_future(post(session, receiver.url))
                await asked.wait()
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                await receiver.gone.wait()


def test_a_call_takes_15_seconds_at_most() -> None:
    """Not 15 for each of its parts."""

    class Silent:
        async def post(self, *_: object, **__: object) -> None:
            await asyncio.Event().wait()

    async def story() -> tuple[Heard, float]:
        guard = guard_for(443)
        session = GuardedSession(cast(aiohttp.ClientSession, Silent()), guard, TOTAL)
        heard = await session.post("https://hooks.example.com/", {}, b"")
        return heard, asyncio.get_running_loop().time()

    heard, ended = run_virtual(story())
    assert isinstance(heard, NoReply)
    assert (heard.reason, ended) == ("timeout", 15.0)
