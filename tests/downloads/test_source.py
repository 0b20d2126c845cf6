"""Files come from the source whole and of one version, whatever it does; or it is said why not."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.downloads import source as room
from server.downloads.objects import object_key
from server.downloads.source import (
    FIRST_STEP,
    LARGEST_FILE,
    LARGEST_STEP,
    LONGEST_WISH,
    TRIES,
    FileChanged,
    NoSuchFile,
    Source,
    SourceFailed,
    Version,
    pause,
    step_size,
    store_file,
)
from strategies import Attempt, Failed, Fetch, FirstStrategy, NoOptions, Outcome, Reaper, Rejected
from strategies.virtual_time import run_virtual
from tests.downloads.places import LocalPlace
from tests.upstream.asking import Recorder, upstreams_over
from tests.upstream.scripted import ScriptedUpstream, answer, hang, read, send, tell
from upstream.admission import admission
from upstream.breaker import BreakerOptions
from upstream.call import Answer, Call
from upstream.circuits import Circuits
from upstream.session import PoolLimits, open_session
from upstream.simulator.app import serve_simulator
from upstream.simulator.files import FileService, archive
from upstream.simulator.latency import parse_latency
from upstream.simulator.work import WorkModel
from upstream.spec import UpstreamSpec
from upstream.transport import judge

FILE = 70_000
SPEC = UpstreamSpec("files", "http://files", operations=("file",), statuses=frozenset({200, 206}))
STEP_TIMEOUT = 60.0

Twist: TypeAlias = Callable[[Answer], Answer | str | float]
"""Makes something else of the right answer: another one, the reason of a network failure, or silence."""


def right(answer: Answer) -> Answer | str | float:
    """The answer, as it should be."""
    return answer


def says(status: int, **headers: str) -> Twist:
    """An answer of that status, without the file."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return lambda answer: Answer(status, named, b"")


def drops(answer: Answer) -> Answer | str | float:
    """The connection ends."""
    return "reset"


def fails(reason: str) -> Twist:
    """The call ends without an answer."""
    return lambda answer: reason


def silent(answer: Answer) -> Answer | str | float:
    """Nothing, for longer than anybody waits."""
    return 1e9


def tells(**headers: str) -> Twist:
    """The right answer with other headers."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return lambda answer: replace(answer, headers={**answer.headers, **named})


def sends(change: Callable[[bytes], bytes]) -> Twist:
    """The right answer with another body."""
    return lambda answer: replace(answer, body=change(answer.body))


class Played:
    """
    A file source on virtual time: each call meets the next twist, then all is right.

    Attributes:
        asked: when, and for which bytes.
        headers: of each call.
    """

    def __init__(self, body: bytes, *twists: Twist, then: Twist = right, takes: float = 0.0) -> None:
        self.body = body
        self.etag = '"1"'
        self._twists: Iterator[Twist] = iter([*twists, *repeat(then, 10_000)])
        self._takes = takes
        self.asked: list[tuple[float, int, int]] = []
        self.headers: list[dict[str, str]] = []
        self.on_call: Callable[[int], None] = lambda number: None

    @property
    def times(self) -> list[float]:
        """When it was asked."""
        return [when for when, _, _ in self.asked]

    async def __call__(self, attempt: Attempt) -> Outcome:
        call = attempt.target.payload
        assert isinstance(call, Call)
        assert (call.method, call.segments, call.operation) == ("GET", ("files", str(FILE)), "file")
        loop = asyncio.get_running_loop()
        headers = dict(call.headers)
        first, last = map(int, headers["Range"].removeprefix("bytes=").split("-"))
        self.on_call(len(self.asked))
        self.asked.append((loop.time(), first, last))
        self.headers.append(headers)
        started = loop.time()
        found = next(self._twists)(self._right(headers, first, last))
        await asyncio.sleep(found if isinstance(found, float) else self._takes)
        if isinstance(found, Answer):
            return judge(SPEC, attempt, started, loop.time(), found)
        return Failed(attempt, started, loop.time(), str(found))

    def _right(self, headers: dict[str, str], first: int, last: int) -> Answer:
        if headers.get("If-Match", self.etag) != self.etag:
            return Answer(412, {}, b"")
        part = self.body[first : last + 1]
        told = f"bytes {first}-{first + len(part) - 1}/{len(self.body)}"
        return Answer(206, {"Content-Range": told, "ETag": self.etag}, part)


def source_over(fetch: Fetch, seed: int = 1) -> Source:
    """A source on the running loop."""
    strategy = FirstStrategy(fetch, Reaper(), NoOptions())
    clock = asyncio.get_running_loop().time
    return Source(lambda: strategy, STEP_TIMEOUT, clock, random.Random(seed))


class Heard:
    """Remembers what it is told of the progress."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int]] = []

    async def __call__(self, done: int, total: int) -> None:
        self.told.append((done, total))


def fetched(fetch: Fetch, heard: Heard | None = None) -> list[bytes]:
    """The steps of the file, fetched on virtual time."""

    async def story() -> list[bytes]:
        async with aclosing(source_over(fetch).fetch(FILE, heard or Heard())) as chunks:
            return [chunk async for chunk in chunks]

    return run_virtual(story())


def refusal(*twists: Twist, then: Twist = right, body: bytes = b"x" * 90_000) -> tuple[SourceFailed, Played]:
    """Why the file could not be had."""
    played = Played(body, *twists, then=then)
    with pytest.raises(SourceFailed) as caught:
        fetched(played)
    return caught.value, played


BODY = random.Random(1).randbytes(83_252)


class TestSteps:
    @given(st.integers(1, 20_000_000))
    def test_steps_are_within_bounds_and_make_up_the_file(self, total: int) -> None:
        version = Version(total, '"1"')
        done, steps = min(FIRST_STEP, total), [min(FIRST_STEP, total)]
        while done < total:
            steps.append(step_size(done, version))
            done += steps[-1]
        assert sum(steps) == total
        assert all(FIRST_STEP <= step <= LARGEST_STEP for step in steps[1:-1])
        assert len(steps) <= 10 or max(steps) == LARGEST_STEP

    @pytest.mark.parametrize("total", [80 * 1024, 83_252, 100_003, 1_000_000, 4_600_000])
    def test_an_ordinary_file_has_ten_steps_of_nearly_one_size(self, total: int) -> None:
        heard = Heard()
        chunks = fetched(Played(bytes(total)), heard)
        assert len(chunks) == 10
        assert [done for done, _ in heard.told] == [sum(map(len, chunks[: n + 1])) for n in range(10)]
        assert {of for _, of in heard.told} == {total}
        assert max(map(len, chunks[1:-1])) - len(chunks[-1]) < 10

    @pytest.mark.parametrize("total", [1, FIRST_STEP - 1, FIRST_STEP])
    def test_a_small_file_is_one_step(self, total: int) -> None:
        heard = Heard()
        assert fetched(Played(BODY[:total]), heard) == [BODY[:total]]
        assert heard.told == [(total, total)]

    def test_the_bytes_are_those_of_the_file(self) -> None:
        assert b"".join(fetched(Played(BODY))) == BODY

    def test_a_call_asks_for_plain_bytes_of_the_version_that_was_begun_with(self) -> None:
        played = Played(BODY)
        fetched(played)
        plain = {"Range": "bytes=0-8191", "Accept": "*/*", "Accept-Encoding": "identity"}
        assert played.headers[0] == plain
        assert all(headers["If-Match"] == '"1"' for headers in played.headers[1:])

    def test_a_source_without_ranges_gives_the_whole_file(self) -> None:
        heard = Heard()
        assert fetched(Played(BODY, lambda _: Answer(200, {}, BODY)), heard) == [BODY]
        assert heard.told == [(len(BODY), len(BODY))]


class TestTryingAgain:
    @pytest.mark.parametrize(
        "twist",
        [
            *(says(status) for status in (500, 502, 503, 504, 408, 429)),
            *(fails(reason) for reason in ("reset", "connect_error", "dns_error", "protocol_error")),
            tells(Content_Range="bytes 0-8191/*"),
            tells(Content_Range="bytes 1-8192/90000"),
            tells(Content_Range="bytes 0-9000/90000"),
            tells(Content_Range="bytes 0-8191/0"),
            tells(Content_Range="bytes 0-8191/9" + "9" * 30),
            tells(Content_Range=""),
            tells(ETag=""),
            tells(ETag='W/"1"'),
            tells(ETag='"a\r\nb"'),
            sends(lambda body: body[:-1]),
            sends(lambda body: body + b"x"),
            sends(lambda body: b""),
            lambda _: Answer(200, {}, b""),
        ],
    )
    @pytest.mark.parametrize("where", [0, 4, 9])
    def test_a_step_that_failed_is_tried_again(self, twist: Twist, where: int) -> None:
        played = Played(BODY, *[right] * where, twist)
        assert b"".join(fetched(played)) == BODY
        assert len(played.asked) == 11
        assert played.asked[where][1:] == played.asked[where + 1][1:]

    @pytest.mark.fault(99)
    def test_every_other_call_may_drop(self) -> None:
        heard = Heard()
        assert b"".join(fetched(Played(BODY, *[drops, right] * 10), heard)) == BODY
        assert len(heard.told) == 10

    def test_a_try_that_takes_too_long_is_given_up(self) -> None:
        played = Played(BODY, silent)
        assert b"".join(fetched(played)) == BODY
        assert STEP_TIMEOUT <= played.times[1] <= STEP_TIMEOUT + 1

    def test_a_whole_file_in_place_of_a_part_in_the_middle_is_not_taken(self) -> None:
        played = Played(BODY, right, lambda _: Answer(200, {}, BODY))
        assert b"".join(fetched(played)) == BODY

    @pytest.mark.parametrize("status", [429, 503])
    def test_the_source_may_say_when(self, status: int) -> None:
        played = Played(BODY, says(status, Retry_After="30"))
        fetched(played)
        assert 30 <= played.times[1] <= 31

    def test_but_not_for_ever(self) -> None:
        played = Played(BODY, says(503, Retry_After="3600"))
        fetched(played)
        assert LONGEST_WISH <= played.times[1] <= LONGEST_WISH + 1

    def test_the_tries_of_a_step_are_bounded_and_further_and_further_apart(self) -> None:
        failed, played = refusal(then=drops)
        assert (failed.detail, failed.attempts) == ("The file source could not be reached (reset).", TRIES)
        assert len(played.asked) == TRIES
        gaps = [after - before for before, after in zip(played.times, played.times[1:], strict=False)]
        assert all(0 <= gap <= 2**number for number, gap in enumerate(gaps))

    @pytest.mark.parametrize("reason", ["connect_error", "dns_error"])
    def test_a_source_that_is_away_for_minutes_costs_no_try(self, reason: str) -> None:
        """It failed the one job there was, after 8 s; the circuit needs more calls to open."""
        assert b"".join(fetched(Played(BODY, right, *[fails(reason)] * 40))) == BODY

    def test_a_source_that_stays_away_is_given_up_after_ten_minutes(self) -> None:
        failed, played = refusal(then=fails("connect_error"))
        assert failed.detail == "The file source could not be reached (connect_error)."
        assert room.PATIENCE <= played.times[-1] <= room.PATIENCE + 11

    def test_progress_gives_a_step_its_tries_anew(self) -> None:
        assert b"".join(fetched(Played(BODY, *[*[drops] * (TRIES - 1), right] * 10))) == BODY

    def test_pauses_are_anywhere_between_nothing_and_a_growing_bound(self) -> None:
        rng = random.Random(1)
        for tries, bound in [(1, 1.0), (2, 2.0), (4, 8.0), (5, 10.0), (100_000, 10.0)]:
            drawn = [pause(tries, rng) for _ in range(2_000)]
            assert 0 <= min(drawn) < bound / 100
            assert 0.99 * bound < max(drawn) <= bound

    @given(st.binary(min_size=1, max_size=200_000), st.lists(st.integers(0, TRIES - 1), max_size=10))
    def test_whatever_fails_less_than_five_times_in_a_row_the_bytes_are_right(
        self, body: bytes, failures: list[int]
    ) -> None:
        twists = [
            twist for number in failures for twist in [*[drops, silent, drops, says(500)][:number], right]
        ]
        assert b"".join(fetched(Played(body, *twists))) == body


class TestGivingUp:
    @pytest.mark.parametrize("status", [404, 410])
    @pytest.mark.parametrize("where", [0, 4])
    def test_a_file_that_there_is_not(self, status: int, where: int) -> None:
        played = Played(BODY, *[right] * where, says(status))
        with pytest.raises(NoSuchFile):
            fetched(played)
        assert len(played.asked) == where + 1

    @pytest.mark.parametrize("status", [204, 301, 400, 401, 403, 412, 416, 451])
    def test_what_is_the_sources_word_is_not_asked_again(self, status: int) -> None:
        failed, played = refusal(says(status))
        assert failed.detail == f"The file source answered with status {status}."
        assert (failed.attempts, len(played.asked)) == (1, 1)

    def test_the_tries_before_it_are_counted(self) -> None:
        assert refusal(drops, says(403))[0].attempts == 2

    def test_more_than_was_asked_for(self) -> None:
        failed, played = refusal(fails("too_large"))
        assert failed.detail == "The file source sends more than it was asked for."
        assert len(played.asked) == 1

    def test_a_file_that_is_said_to_be_without_end(self) -> None:
        failed, played = refusal(tells(Content_Range=f"bytes 0-8191/{LARGEST_FILE + 1}"))
        assert failed.detail == "The file source has a file that is too large."
        assert len(played.asked) == 1

    @pytest.mark.parametrize(
        ("twist", "why"),
        [
            (says(500), "answered with status 500"),
            (silent, "did not answer in time"),
            (tells(ETag='W/"1"'), "sent a part without saying which"),
            (sends(lambda body: body[:-1]), "sent a part that is not as long as it says"),
            (tells(Content_Range="bytes 5-8196/90000"), "sent another part than it was asked for"),
            (lambda _: Answer(200, {}, b""), "sent an empty file"),
        ],
    )
    def test_the_last_word_says_why(self, twist: Twist, why: str) -> None:
        failed, _ = refusal(then=twist)
        assert (failed.detail, failed.attempts) == (f"The file source {why}.", TRIES)


class TestAnotherVersion:
    @pytest.mark.parametrize("twist", [says(412), says(416), tells(ETag='"2"')])
    def test_the_fetch_ends_with_word_of_it(self, twist: Twist) -> None:
        with pytest.raises(FileChanged):
            fetched(Played(BODY, right, twist))


class TestCircuit:
    OPTIONS = BreakerOptions(failures=3, open_time=10.0, jitter=0.0)

    @pytest.fixture
    def circuits(self) -> Circuits:
        """One, of the source."""
        return Circuits([replace(SPEC, breaker=self.OPTIONS)], random.Random(1))

    def guarded(self, played: Played, circuits: Circuits) -> Fetch:
        """*played* behind its circuit."""
        return admission(played, circuits.of, lambda: asyncio.get_running_loop().time(), 1.0)

    def test_an_open_circuit_is_waited_out_and_counts_as_no_try(self, circuits: Circuits) -> None:
        played = Played(BODY, right, *[drops] * (TRIES - 1))
        assert b"".join(fetched(self.guarded(played, circuits))) == BODY
        opened, probe, second = played.times[3], played.times[4], played.times[5]
        assert opened + 10 <= probe <= opened + 20
        assert probe + 20 <= second <= probe + 30
        assert [circuit.refusals for _, _, circuit in circuits] == [2]

    def test_who_is_refused_again_and_again_asks_less_and_less_often(self) -> None:
        asked = []

        async def refuse(attempt: Attempt) -> Outcome:
            now = asyncio.get_running_loop().time()
            asked.append(now)
            return Rejected(attempt, now, now, "circuit_open", "half_open", 1.0)

        with pytest.raises(SourceFailed, match="has failed too often of late") as caught:
            fetched(refuse)
        assert caught.value.attempts == 0
        assert room.PATIENCE <= asked[-1] <= room.PATIENCE + 11
        assert len(asked) < 150

    def test_many_files_get_through_one_probe(self, circuits: Circuits) -> None:
        """While it is out the others are refused again and again, and lose no try by that."""
        played = Played(BODY, *[drops] * 6, takes=5.0)

        async def story() -> list[bytes]:
            guarded = self.guarded(played, circuits)

            async def one(number: int) -> bytes:
                return b"".join([chunk async for chunk in source_over(guarded, number).fetch(FILE, Heard())])

            return await asyncio.gather(*map(one, range(20)))

        assert run_virtual(story()) == [BODY] * 20


def changing(after: int, body: bytes) -> Played:
    """A file that has other bytes from the call of that number on, and is longer."""
    played = Played(body)

    def change(number: int) -> None:
        if number == after:
            played.body, played.etag = bytes(reversed(body)) + b"!", '"2"'

    played.on_call = change
    return played


def place_of(local: LocalPlace) -> Path:
    """Where the object is."""
    return local.folder / object_key(FILE)


def stored(local: LocalPlace) -> bytes:
    """What is in it."""
    return place_of(local).read_bytes()


class TestStoring:
    async def test_the_object_is_the_file(self, local: LocalPlace) -> None:
        heard = Heard()
        size = await store_file(local.store, source_over(Played(BODY)), FILE, heard)
        assert (size, stored(local)) == (len(BODY), BODY)
        assert len(heard.told) == 10

    @pytest.mark.fault(99)
    async def test_a_file_that_changes_midway_is_fetched_anew_and_of_one_version(
        self, local: LocalPlace
    ) -> None:
        played, heard = changing(5, BODY), Heard()
        size = await store_file(local.store, source_over(played), FILE, heard)
        assert (size, stored(local)) == (len(BODY) + 1, played.body)
        assert len(played.asked) == 6 + 10
        shares = [done / total for done, total in heard.told]
        assert shares == sorted(shares)
        assert heard.told[-1] == (size, size)

    async def test_a_file_that_always_changes_is_given_up(self, local: LocalPlace) -> None:
        played, numbers = Played(BODY), count()

        def change(number: int) -> None:
            played.etag = f'"{next(numbers)}"'

        played.on_call = change
        with pytest.raises(SourceFailed, match="changed each time"):
            await store_file(local.store, source_over(played), FILE, Heard())
        assert await local.store.head(object_key(FILE)) is None
        assert len(played.asked) == 6

    async def test_a_failure_in_the_middle_leaves_nothing(self, local: LocalPlace) -> None:
        with pytest.raises(NoSuchFile):
            await store_file(local.store, source_over(Played(BODY, right, says(404))), FILE, Heard())
        assert await local.store.head(object_key(FILE)) is None
        assert local.parts() == []

    async def test_what_is_raised_at_the_progress_ends_it(self, local: LocalPlace) -> None:
        class Enough(Exception):
            pass

        async def enough(done: int, total: int) -> None:
            raise Enough

        played = Played(BODY)
        with pytest.raises(Enough):
            await store_file(local.store, source_over(played), FILE, enough)
        assert len(played.asked) == 1
        assert local.parts() == []


@asynccontextmanager
async def source_at(url: str) -> AsyncIterator[Source]:
    """A source over the whole core, without pauses between tries."""
    clock, recorder = asyncio.get_running_loop().time, Recorder()
    async with open_session(PoolLimits(), recorder) as session:
        upstreams = upstreams_over(session, recorder, replace(SPEC, url=url, retry=True), clock=clock)
        reaper = Reaper()
        strategy = FirstStrategy(upstreams.fetch, reaper, NoOptions())

        async def sleep(seconds: float) -> None:
            await asyncio.sleep(0)

        yield Source(lambda: strategy, STEP_TIMEOUT, clock, random.Random(1), sleep)
        await reaper.aclose(within=5.0)


@asynccontextmanager
async def simulated(service: FileService) -> AsyncIterator[Source]:
    """A source over the simulator's."""
    work = WorkModel(parse_latency("constant:0"))
    async with serve_simulator(work, random.Random(1), files=service) as url, source_at(url) as source:
        yield source


class TestOverTheWire:
    async def test_a_file_of_the_simulator_in_ten_steps(self, local: LocalPlace) -> None:
        service, heard = FileService(random.Random(1)), Heard()
        async with simulated(service) as source:
            await store_file(local.store, source, FILE, heard)
        assert stored(local) == archive(FILE)
        assert zipfile.is_zipfile(place_of(local))
        assert service.calls == len(heard.told) == 10

    async def test_a_file_that_the_simulator_does_not_have(self, local: LocalPlace) -> None:
        async with simulated(FileService(random.Random(1))) as source:
            with pytest.raises(NoSuchFile):
                await store_file(local.store, source, FILE + 1, Heard())

    @pytest.mark.fault(99)
    async def test_a_source_that_breaks_off_and_fails_gives_the_file_in_the_end(
        self, local: LocalPlace
    ) -> None:
        service = FileService(random.Random(7), failure=0.15, drop=0.15)
        async with simulated(service) as source:
            await store_file(local.store, source, FILE, Heard())
        assert stored(local) == archive(FILE)
        assert service.calls > 10

    async def test_a_file_that_changes_midway(self, local: LocalPlace) -> None:
        service = FileService(random.Random(1))

        async def changes(done: int, total: int) -> None:
            if not service.editions:
                service.change(FILE)

        async with simulated(service) as source:
            await store_file(local.store, source, FILE, changes)
        assert stored(local) == archive(FILE, 1)

    async def test_cancelling_hangs_up_on_the_source(self, local: LocalPlace) -> None:
        asked = asyncio.Event()
        headers = (f"Content-Range: bytes 0-8191/{len(BODY)}", 'ETag: "1"')
        first = send(answer(BODY[:8192], *headers, status="206 Partial Content"))
        async with ScriptedUpstream([read(), first, read(), tell(asked), hang()]) as upstream:
            async with source_at(upstream.url) as source:
                task = asyncio.create_task(store_file(local.store, source, FILE, Heard()))
                async with asyncio.timeout(10):
                    await asked.wait()
                    task.cancel()
                    await upstream.gone.wait()
                    await asyncio.wait([task])
            assert task.cancelled()
        assert upstream.requests[1].headers["range"].startswith("bytes=8192-")
        assert local.parts() == []

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-8191/1000000000\r\n"
            b'ETag: "1"\r\nContent-Length: 1000000000\r\n\r\n',
            b'HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-8191/1000000000\r\nETag: "1"\r\n\r\n',
        ],
        ids=["whole", "whole without end", "part", "part without end"],
    )
    async def test_a_body_of_a_gigabyte_is_not_read(self, local: LocalPlace, head: bytes) -> None:
        endless = [send(bytes(256 * 1024))] * 4_000
        script = [read(), send(head), *endless, hang()]
        async with ScriptedUpstream(script) as upstream, source_at(upstream.url) as source:
            tracemalloc.start()
            try:
                with pytest.raises(SourceFailed, match="sends more than it was asked for"):
                    await store_file(local.store, source, FILE, Heard())
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert upstream.connections == 1
        assert peak < 8 * 1024 * 1024

    async def test_no_more_than_a_step_is_held(self) -> None:
        """Of a file of 50 MB. The source makes each part anew; what is measured is both sides."""
        total = 50_000_000

        class Large(Played):
            def _right(self, headers: dict[str, str], first: int, last: int) -> Answer:
                last = min(last, total - 1)
                told = f"bytes {first}-{last}/{total}"
                return Answer(206, {"Content-Range": told, "ETag": '"1"'}, bytes(last - first + 1))

        size = 0
        async with aclosing(source_over(Large(b"")).fetch(FILE, Heard())) as chunks:
            tracemalloc.start()
            try:
                async for chunk in chunks:
                    size += len(chunk)
                    del chunk
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert size == total
        assert peak < 1.5 * LARGEST_STEP
