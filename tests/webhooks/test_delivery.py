"""What a receiver can do with a webhook, and what we make of it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from server.webhooks.delivery import (
    LONGEST,
    Delivered,
    Disabled,
    Message,
    Outcome,
    Refused,
    Retry,
    deliver,
    judge,
    pause,
)
from server.webhooks.signing import new_secret
from tests.faults.certificates import PAST, Authority
from tests.upstream.scripted import (
    Action,
    Connection,
    Script,
    ScriptedUpstream,
    answer,
    close,
    hang,
    read,
    reset,
    send,
)
from tests.webhooks.network import HERE, FakeResolver, guard_for
from upstream.guard import DENIED
from upstream.guarded_session import MAX_READ, NoReply, Reply, open_guarded_session

SECRETS = (new_secret(), new_secret())
NOW = 1_700_000_000.0
BODY = b'{"type":"download.completed","data":{"jobId":"1"}}'


def message(url: str) -> Message:
    """Something to tell."""
    return Message("msg_1", url, BODY)


async def delivered_to(
    receiver: ScriptedUpstream, *, tls: ssl.SSLContext | None = None, total: float = 10.0
) -> Outcome:
    """One attempt at *receiver*."""
    guard = guard_for(receiver.port, allowed=[f"{HERE}/32"])
    async with open_guarded_session(guard, tls=tls, total=total) as session:
        return await deliver(message(f"{receiver.url}/hook"), SECRETS, session, lambda: NOW)


async def outcome_of(*script: Action, total: float = 10.0) -> Outcome:
    """What becomes of a message whose receiver follows *script* when it has read it."""
    async with ScriptedUpstream([read(), *script]) as receiver:
        return await delivered_to(receiver, total=total)


def says(status: int, *headers: str) -> Action:
    """Answer with *status*."""
    body = b"" if status in (204, 304) else b"well"
    return send(answer(body, *headers, status=f"{status} Whatever"))


class TestStatuses:
    """Only 2xx is success."""

    @pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
    @pytest.mark.fault(97)
    async def test_2xx_is_success(self, status: int) -> None:
        """All of them."""
        assert await outcome_of(says(status)) == Delivered(status)

    @pytest.mark.parametrize(
        "status", [300, 301, 302, 304, 307, 308, 400, 401, 404, 409, 418, 429, 500, 502, 503, 504, 599]
    )
    @pytest.mark.fault(97)
    async def test_everything_else_is_tried_again(self, status: int) -> None:
        """A redirect too, which nobody follows."""
        outcome = await outcome_of(says(status, "Location: /elsewhere"))
        assert outcome == Retry("http_error", f"The receiver answered {status}.")

    @pytest.mark.fault(97)
    async def test_410_is_the_end(self) -> None:
        """The receiver wants no more."""
        assert await outcome_of(says(410)) == Disabled()

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.fault(97)
    async def test_a_receiver_that_asks_for_a_pause_gets_it(self, status: int) -> None:
        """In seconds, or as a date."""
        dated = f"Retry-After: {formatdate(NOW + 90, usegmt=True)}"
        for header, seconds in (("Retry-After: 120", 120.0), (dated, 90.0), ("Retry-After: 999999", LONGEST)):
            outcome = await outcome_of(says(status, header))
            assert isinstance(outcome, Retry)
            assert outcome.after == seconds

    async def test_other_statuses_cannot_ask_for_one(self) -> None:
        """A 500 with Retry-After is a 500."""
        outcome = await outcome_of(says(500, "Retry-After: 120"))
        assert isinstance(outcome, Retry)
        assert outcome.after == 0.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 7 ", 7.0),
        ("86400", LONGEST),
        ("9" * 400, LONGEST),
        ("-1", 0.0),
        ("1.5", 0.0),
        ("\u0663", 0.0),
        ("soon", 0.0),
        ("", 0.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30.0),
        ("Tue, 14 Nov 2023 23:13:50 +0100", 30.0),
        ("Tue, 14 Nov 2000 22:13:50 GMT", 0.0),
        ("Tue, 14 Nov 2999 22:13:50 GMT", LONGEST),
        ("Tue, 99 Nov 2023 22:13:50 GMT", 0.0),
    ],
)
def test_what_retry_after_asks_for(text: str, seconds: float) -> None:
    """A number, a date in any zone, or nothing that can be read."""
    assert pause(text, NOW) == seconds


@given(st.text(max_size=60))
def test_no_retry_after_does_harm(text: str) -> None:
    """It is a time between now and a day from now."""
    assert 0.0 <= pause(text, NOW) <= LONGEST


class TestFaults:
    """A receiver that does not keep to HTTP, or to any manners."""

    @pytest.mark.parametrize(
        ("script", "reason"),
        [
            ([close()], "reset"),
            ([reset()], "reset"),
            ([send(b"HTTP/1.1 200"), reset()], "reset"),
            ([send(b"SSH-2.0-OpenSSH_9.2\r\n")], "protocol_error"),
            ([send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000)], "protocol_error"),
            ([send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)], "protocol_error"),
        ],
        ids=["closes", "resets", "resets in the head", "speaks SSH", "endless header", "endless interim"],
    )
    @pytest.mark.fault(97)
    async def test_an_answer_that_is_none_is_tried_again(self, script: Script, reason: str) -> None:
        """With a word on why."""
        outcome = await outcome_of(*script)
        assert isinstance(outcome, Retry)
        assert (outcome.reason, outcome.after) == (reason, 0.0)

    async def test_a_receiver_that_is_not_there_is_tried_again(self) -> None:
        """Its port is bound, so that nobody else gets it, and not listened at."""
        with socket.socket() as taken:
            taken.bind((HERE, 0))
            port = taken.getsockname()[1]
            guard = guard_for(port, allowed=[f"{HERE}/32"])
            async with open_guarded_session(guard) as session:
                outcome = await deliver(message(f"http://{HERE}:{port}/"), SECRETS, session, lambda: NOW)
        assert outcome == Retry("connect_error", "The receiver could not be reached.")

    @pytest.mark.fault(97)
    async def test_silence_is_tried_again(self) -> None:
        """After the whole time is over."""
        outcome = await outcome_of(hang(), total=0.05)
        assert outcome == Retry("timeout", "The receiver did not answer in time.")

    @pytest.mark.fault(97)
    async def test_a_body_that_never_ends_is_not_read(self) -> None:
        """It said 200: that is all we want to know. Memory is bounded, and so is what we take."""
        sent = 0

        async def pour(connection: Connection) -> None:
            nonlocal sent
            while sent < 2**30:
                connection.writer.write(b"x" * 65_536)
                await connection.writer.drain()
                sent += 65_536

        head = f"HTTP/1.1 200 OK\r\nContent-Length: {2**30}\r\n\r\n".encode()
        assert await outcome_of(send(head), pour) == Delivered(200)
        assert MAX_READ < sent < 2**26  # the rest is what the kernel's buffers took

    async def test_a_body_that_does_not_come_spoils_nothing(self) -> None:
        """Cut or withheld: the status was said."""
        length = send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
        assert await outcome_of(length, close()) == Delivered(200)
        assert await outcome_of(length, reset()) == Delivered(200)
        assert await outcome_of(length, hang(), total=1.0) == Delivered(200)


class TestCertificates:
    """Whom we believe."""

    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        """One of our own."""
        return Authority(tmp_path)

    async def attempt(self, server: ssl.SSLContext, client: ssl.SSLContext | None) -> Outcome:
        """One over TLS."""
        async with ScriptedUpstream([read(), says(200)], tls=server) as receiver:
            return await delivered_to(receiver, tls=client)

    async def test_a_good_certificate_is_believed(self, authority: Authority) -> None:
        """Else the next test would show nothing."""
        server = authority.server(f"IP:{HERE}")
        assert await self.attempt(server, authority.believer()) == Delivered(200)

    @pytest.mark.parametrize("ill", ["another name", "out of date", "self-signed", "unknown authority"])
    @pytest.mark.fault(97)
    async def test_a_bad_certificate_is_not(self, ill: str, authority: Authority) -> None:
        """Nothing is sent, and it is tried again: certificates get renewed."""
        server = authority.server(
            "IP:127.0.0.9" if ill == "another name" else f"IP:{HERE}",
            *([PAST] if ill == "out of date" else []),
            own=ill == "self-signed",
        )
        client = None if ill == "unknown authority" else authority.believer()
        async with ScriptedUpstream([read(), says(200)], tls=server) as receiver:
            outcome = await delivered_to(receiver, tls=client)
            assert receiver.requests == []
        assert outcome == Retry("tls_error", "The receiver's certificate was not accepted.")


class TestRefusals:
    """What the guard stops, and what does not show of it."""

    async def attempt(self, url: str, *addresses: str) -> Outcome:
        """One, with a name that has *addresses*."""
        resolver = FakeResolver(lambda number: addresses)
        async with open_guarded_session(guard_for(8443), resolver=resolver) as session:
            return await deliver(message(url), SECRETS, session, lambda: NOW)

    @pytest.mark.fault(98)
    async def test_every_refusal_reads_the_same(self) -> None:
        """Registered wrongly, private, unknown: the owner of the job learns nothing about our network."""
        refused = [
            await self.attempt("http://127.0.0.1:8443/"),
            await self.attempt("http://redis:6379/"),
            await self.attempt("nonsense"),
            await self.attempt("http://hooks.example.com:8443/", "10.0.0.1"),
            await self.attempt("http://hooks.example.com:8443/", "::1", "127.0.0.1"),
            await self.attempt("http://hooks.example.com:8443/"),
        ]
        assert [type(one) for one in refused] == [Refused] * 6
        assert {one.told for one in refused if isinstance(one, Refused)} == {DENIED}

    async def test_our_log_knows_more(self) -> None:
        """An operator has to find out."""
        outcome = await self.attempt("http://hooks.example.com:8443/", "10.0.0.1")
        assert isinstance(outcome, Refused)
        assert "10.0.0.1" in outcome.why


async def test_what_arrives_is_what_was_signed() -> None:
    """The receiver verifies it with the reference library, by either of two secrets."""
    async with ScriptedUpstream([read(), says(200)]) as receiver:
        guard = guard_for(receiver.port, allowed=[f"{HERE}/32"])
        async with open_guarded_session(guard) as session:
            await deliver(message(f"{receiver.url}/hook"), SECRETS, session, time.time)
        [received] = receiver.requests
    assert received.body == BODY
    assert received.headers["content-type"] == "application/json"
    for secret in SECRETS:
        Webhook(secret).verify(received.body, received.headers)


async def test_an_attempt_has_the_time_at_which_it_is_made() -> None:
    """And the message's id, each time."""
    stamps: list[tuple[str, str]] = []

    class Post:
        async def post(self, url: str, headers: dict[str, str], body: bytes) -> Reply:
            stamps.append((headers["webhook-id"], headers["webhook-timestamp"]))
            return Reply(500)

    for now in (NOW, NOW + 5):
        await deliver(message("https://hooks.example.com/"), SECRETS, Post(), lambda now=now: now)  # type: ignore[arg-type, misc]
    assert stamps == [("msg_1", "1700000000"), ("msg_1", "1700000005")]


async def test_a_cancelled_attempt_is_cancelled() -> None:
    """It is no failure of the receiver."""

    class Post:
        async def post(self, *_: object) -> Reply:
            await asyncio.Event().wait()
            return Reply(200)

    attempt = asyncio.ensure_future(deliver(message("x"), SECRETS, Post(), lambda: NOW))
    await asyncio.sleep(0)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt


@pytest.mark.parametrize("reason", ["timeout", "tls_error", "connect_error", "reset", "protocol_error"])
def test_what_the_owner_is_told_names_no_address(reason: str) -> None:
    """The log does."""
    outcome = judge(NoReply(reason, "Cannot connect to host 10.0.0.1:443"), NOW)
    assert isinstance(outcome, Retry)
    assert "10.0.0.1" not in outcome.told


def test_outcomes_of_all_statuses() -> None:
    """Every status is one of three things."""
    kinds: Sequence[type[Outcome]] = [type(judge(Reply(status), NOW)) for status in range(100, 600)]
    assert kinds.count(Delivered) == 100
    assert kinds.count(Disabled) == 1
    assert kinds.count(Retry) == 399
