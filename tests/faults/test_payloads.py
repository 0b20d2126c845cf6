"""Group E: what an upstream says, and how. It is stopped at a limit, judged once, and hurts no other."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from strategies import (
    AdaptiveOptions,
    AdaptiveStrategy,
    AllOptions,
    AllStrategy,
    CollectStrategy,
    FirstStrategy,
    HedgedOptions,
    HedgedStrategy,
    NoOptions,
)
from strategies.testing import Make, answers, timeline
from tests.faults.trial import OK, Logged, Recovery, bodies, both_ways, pause, reasons, trial
from tests.upstream.scripted import (
    Action,
    Connection,
    ScriptedUpstream,
    answer,
    close,
    hang,
    read,
    repeat,
    reset,
    send,
)
from upstream.breaker import BreakerOptions
from upstream.payloads import anything, json_document


def head(*headers: str, status: str = "200 OK") -> bytes:
    """The head of an answer, without a word about its length."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode()


CHUNKED = head("Transfer-Encoding: chunked")
CHUNK = b"3e8\r\n" + b" " * 1000 + b"\r\n"
HINT = head("Link: </x>", status="103 Early Hints")
LIMIT = 1024 * 1024


async def turn(connection: Connection) -> None:
    """Let the others go on, even when the network takes all at once."""
    await asyncio.sleep(0)


def drip(data: bytes, every: float) -> Action:
    """Send *data* byte by byte, one *every* so many seconds."""

    async def act(connection: Connection) -> None:
        for start in range(len(data)):
            await send(data[start : start + 1])(connection)
            await pause(connection, every)

    return act


def layers(count: int) -> bytes:
    """An answer with 64 MiB of spaces in *count* layers of gzip."""
    body = b" " * (64 * LIMIT)
    for _ in range(count):
        body = gzip.compress(body)
    return answer(body, f"Content-Encoding: {', '.join(['gzip'] * count)}")


BOMB = zlib.compress(b" " * (64 * LIMIT))
ZSTD = b"\x28\xb5\x2f\xfd\x00\x58" + b"\x02\x00\x10 " * 512 + b"\x03\x00\x10 "
"""A frame of 513 blocks, each of which says in four bytes: 128 KiB of spaces."""


@both_ways
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param([read(), hang()], "timeout", id="silence", marks=pytest.mark.fault(47)),
        pytest.param(
            [read(), send(head("Content-Length: 11")), hang()],
            "timeout",
            id="a head and then silence",
            marks=pytest.mark.fault(48),
        ),
        pytest.param([read(), drip(OK, 0.1)], "timeout", id="a byte in 100 ms", marks=pytest.mark.fault(49)),
        pytest.param(
            [read(), send(head("Content-Length: 11")), drip(b'{"time": 1}', 0.1)],
            "timeout",
            id="a byte of the body in 100 ms",
            marks=pytest.mark.fault(49),
        ),
        pytest.param(
            [read(), repeat(send(HINT), turn)],
            "protocol_error",
            id="interim answers without end",
            marks=pytest.mark.fault(50),
        ),
        pytest.param(
            [read(), repeat(send(HINT * 1000), turn)],
            "protocol_error",
            id="interim answers without end, a thousand at once",
            marks=pytest.mark.fault(50),
        ),
        pytest.param(
            [read(), send(b"HTTP/1.1 200 OK\r\n"), repeat(send(b"X-Y: z\r\n" * 20), turn)],
            "protocol_error",
            id="headers without end",
            marks=pytest.mark.fault(51),
        ),
        pytest.param(
            [read(), send(b"HTTP/1.1 200 OK\r\nX-Y: "), repeat(send(b"z" * 1000), turn)],
            "protocol_error",
            id="a header without end",
            marks=pytest.mark.fault(51),
        ),
        pytest.param(
            [read(), send(head("Content-Length: 10000000000")), repeat(send(b" " * 1000), turn)],
            "too_large",
            id="10 GB announced",
            marks=pytest.mark.fault(52),
        ),
        pytest.param(
            [read(), send(CHUNKED), repeat(send(CHUNK), turn)],
            "too_large",
            id="chunks without end",
            marks=pytest.mark.fault(53),
        ),
        pytest.param(
            [read(), send(head("Content-Length: 12") + b'{"time": 1}'), close()],
            "reset",
            id="a length too long",
            marks=pytest.mark.fault(55),
        ),
        pytest.param(
            [read(), send(head("Content-Length: 10") + b'{"time": 1}'), hang()],
            "protocol_error or invalid_payload",
            id="a length too short",
            marks=pytest.mark.fault(55),
        ),
        pytest.param(
            [read(), send(CHUNKED + b"5\r\n{}\r\n\r\nzz\r\n"), hang()],
            "protocol_error",
            id="a chunk that lies about its size",
            marks=pytest.mark.fault(56),
        ),
        pytest.param(
            [read(), send(answer(b'{"time": 1}', "X-Bad: a\0b")), hang()],
            "protocol_error",
            id="NUL in a header",
            marks=pytest.mark.fault(56),
        ),
        pytest.param(
            [read(), send(answer(b"<html>It works</html>", "Content-Type: text/html"))],
            "invalid_payload",
            id="HTML",
            marks=pytest.mark.fault(57),
        ),
        pytest.param(
            [read(), send(answer(b""))], "invalid_payload", id="nothing", marks=pytest.mark.fault(57)
        ),
        pytest.param(
            [read(), send(answer(b'{"error": "no"}'))],
            "invalid_payload",
            id="an error as 200",
            marks=pytest.mark.fault(58),
        ),
        pytest.param(
            [read(), send(head("Content-Length: 11", status="204 No Content") + b'{"time": 1}'), hang()],
            "protocol_error or http_error",
            id="204 with a body",
            marks=pytest.mark.fault(59),
        ),
        pytest.param(
            [read(), send(answer(b"", "Location: /again", status="302 Found"))],
            "http_error",
            id="a redirect to itself",
            marks=pytest.mark.fault(62),
        ),
        pytest.param(
            [read(), send(answer(b"", "Location: http://169.254.169.254/", status="307 X"))],
            "http_error",
            id="a redirect inside",
            marks=pytest.mark.fault(62),
        ),
    ],
)
async def test_it_fails_in_time_and_alone(
    script: Sequence[Action], reason: str, fast_lane: bool, caplog: Logged
) -> None:
    """By every strategy, beside a healthy upstream; once the upstream is well, so is the next call."""
    recovery = Recovery()
    async with (
        ScriptedUpstream(recovery.script(script)) as ill,
        trial(ill.url, fast_lane, caplog) as tried,
    ):
        await tried.every_way(*reason.split(" or "))
        recovery.well.set()
        await tried.is_well("ill")


@both_ways
@pytest.mark.fault(54)
@pytest.mark.parametrize(
    ("bomb", "expected"),
    [
        pytest.param(lambda: layers(1), {"too_large"}, id="gzip"),
        pytest.param(lambda: answer(BOMB, "Content-Encoding: deflate"), {"too_large"}, id="deflate"),
        pytest.param(
            lambda: layers(3), {"too_large", "protocol_error", "invalid_payload"}, id="three layers"
        ),
        pytest.param(
            lambda: answer(ZSTD, "Content-Encoding: zstd"), {"too_large", "protocol_error"}, id="zstd"
        ),
        pytest.param(lambda: answer(BOMB, "Content-Encoding: br"), {"protocol_error"}, id="no brotli"),
    ],
)
async def test_a_bomb_does_not_go_off(
    bomb: Callable[[], bytes], expected: set[str], fast_lane: bool, caplog: Logged
) -> None:
    """
    64 MiB in a few kB stop at the limit, decoded; a coding that we do not know, or twice, is no answer.

    Which codings are known depends on the Python and what is installed: those may fail either way.
    """
    data = bomb()
    async with (
        ScriptedUpstream([repeat(read(), send(data))]) as ill,
        trial(ill.url, fast_lane, caplog) as tried,
    ):
        await tried.is_well("good")
        tracemalloc.start()
        try:
            result = await tried.execute("first", "ill", "good")
            alone = await tried.execute("first", "ill")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert bodies(result) == [b'{"time": 1}']
        assert set(reasons(alone)) <= expected
        assert peak <= 4 * LIMIT


@both_ways
class TestTheBreakerHears:
    """What an upstream says is the breaker's business, to the call."""

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(answer(b"no", status="500 X"), id="500", marks=pytest.mark.fault(61)),
            pytest.param(answer(b"nonsense"), id="invalid payload", marks=pytest.mark.fault(57)),
            pytest.param(answer(b"", status="503 X"), id="503", marks=pytest.mark.fault(61)),
        ],
    )
    async def test_the_third_failure_is_the_last_call(
        self, bad: bytes, fast_lane: bool, caplog: Logged
    ) -> None:
        """Of fifty requests in a storm three reach the upstream, and all are answered at once."""
        async with (
            ScriptedUpstream([repeat(read(), send(bad))]) as ill,
            trial(ill.url, fast_lane, caplog, breaker=BreakerOptions()) as tried,
        ):
            seen = [reasons(await tried.execute("first", "ill"))[0] for _ in range(50)]
            assert "circuit_open" not in seen[:3]
            assert set(seen[3:]) == {"circuit_open"}
            assert len(ill.requests) == 3
            await tried.is_well("good")


@pytest.mark.fault(60)
@both_ways
@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
@pytest.mark.parametrize("pause", ["7", "Wed, 21 Oct 2099 07:28:00 GMT"], ids=["seconds", "date"])
async def test_who_asks_for_a_pause_is_not_hedged(
    status: str, pause: str, fast_lane: bool, caplog: Logged
) -> None:
    """The adaptive strategy makes one call, although the rest of its targets are at hand."""
    busy = answer(b"", f"Retry-After: {pause}", status=status)
    async with (
        ScriptedUpstream([repeat(read(), send(busy))]) as ill,
        trial(ill.url, fast_lane, caplog) as tried,
    ):
        tried.kinds["adaptive"] = AdaptiveStrategy(tried.fetch, tried.reaper, AdaptiveOptions())
        result = await tried.execute("adaptive", "ill", "ill", "ill")
        assert reasons(result) == ["http_error"]
        assert len(ill.requests) == 1
        result = await tried.execute("adaptive", "ill", "ill", "good")
        assert bodies(result) == [b'{"time": 1}']
        assert len(ill.requests) == 2


@pytest.mark.fault(58)
@both_ways
async def test_a_200_that_tells_an_error_is_what_the_rule_says(fast_lane: bool, caplog: Logged) -> None:
    """With no rule, or any JSON allowed, it is a success: only the operator knows better."""
    told = answer(b'{"error": "no"}')
    for accept in (anything, json_document):
        async with (
            ScriptedUpstream([repeat(read(), send(told))]) as ill,
            trial(ill.url, fast_lane, caplog, accept=accept) as tried,
        ):
            assert bodies(await tried.execute("first", "ill")) == [b'{"error": "no"}']


@pytest.mark.fault(56)
@both_ways
async def test_a_second_answer_that_nobody_asked_for_reaches_nobody(fast_lane: bool, caplog: Logged) -> None:
    """Two answers to one request: the next call goes out on a fresh connection and gets its own."""
    two = [read(), send(OK + answer(b'{"time": 666}')), hang()]
    async with (
        ScriptedUpstream(two, two, [repeat(read(), send(OK))]) as ill,
        trial(ill.url, fast_lane, caplog) as tried,
    ):
        for _ in range(3):
            await tried.is_well("ill")
        assert ill.connections == 3


@pytest.mark.fault(64)
@both_ways
@pytest.mark.parametrize("strategy", ["first", "hedged"])
@pytest.mark.parametrize("ending", [reset(), hang()], ids=["breaks", "stalls"])
async def test_a_body_that_fails_after_its_head_does_not_win(
    strategy: str, ending: Action, fast_lane: bool, caplog: Logged
) -> None:
    """Its head came first, the other one's body came: that one is the answer."""
    ill_script = [read(), send(OK[:-4]), ending]
    async with (
        ScriptedUpstream(ill_script) as ill,
        trial(ill.url, fast_lane, caplog) as tried,
    ):
        result = await tried.execute(strategy, "ill", "good")
        assert result.winner is not None
        assert result.winner.attempt.target.upstream == "good"
        assert len(ill.requests) == 1


def built(kind: type[Any], options: object) -> Make:
    """How to make a strategy."""
    return lambda fetch, reaper: kind(fetch, reaper, options)


EVERY = {
    "all": built(AllStrategy, AllOptions()),
    "first": built(FirstStrategy, NoOptions()),
    "collect": built(CollectStrategy, NoOptions()),
    "hedged": built(HedgedStrategy, HedgedOptions()),
    "adaptive": built(AdaptiveStrategy, AdaptiveOptions()),
}
GIVES_UP = {"collect": "gathers"}
WINS = {"all": "gathers 0", "collect": "gathers 0"}


@pytest.mark.fault(63)
@pytest.mark.parametrize("strategy", EVERY)
@pytest.mark.parametrize("timeout", [0.002, 1.0, 4.999, 5.0, 5.001, 30.0])
def test_an_answer_counts_that_comes_before_the_deadline(strategy: str, timeout: float) -> None:
    """1 ms before it is in time; at the very instant, or 1 ms later, the deadline has come first."""
    make, won = EVERY[strategy], WINS.get(strategy, "0 wins")
    nothing = GIVES_UP.get(strategy, "gives up")
    for after, at, ending in (
        (timeout - 0.001, timeout - 0.001, won),
        (timeout, timeout, nothing),
        (timeout + 0.001, timeout, nothing),
    ):
        assert timeline(make, answers(after), timeout=timeout, targets=1)[-1] == (round(at, 9), ending)
