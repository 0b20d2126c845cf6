"""Who follows a job gets every event once and in order, whatever happens to the connection or the store."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from server.downloads import feed as module
from server.downloads.channels import Channels
from server.downloads.feed import MOST, PAGE, Feed, Follower, Resync, open_feed, place
from server.downloads.jobs import Event, File, FileState, Job, JobState
from server.downloads.records import NewJob, Records
from server.job_store.faults import JobStoreDown
from tests.downloads.journal import Journal, Read, in_order, new_job, open_journal
from tests.job_store.stores import WITHIN, Valkey, eventually, valkey
from tests.server.raw import until


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A store for the tests that leave it as it is."""
    with valkey(tmp_path_factory.mktemp("feed")) as running:
        yield running


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[Valkey]:
    """A store to be killed and frozen. With any other ``appendfsync`` it loses what it has acknowledged."""
    with valkey(tmp_path, appendfsync="always") as running:
        yield running


@pytest.fixture
async def journal(store: Valkey) -> AsyncIterator[Journal]:
    async with open_journal(store.url) as opened:
        yield opened


@pytest.fixture
async def feed(store: Valkey, journal: Journal) -> AsyncIterator[Feed]:
    async with open_feed(store.url, journal, random.Random(1).random) as opened:
        yield opened


async def take(follower: Follower, count: int) -> list[str]:
    """The ids of that many events, and of those that came with them."""
    ids: list[str] = []
    async with asyncio.timeout(WITHIN):
        while len(ids) < count:
            found = await follower.next()
            assert found, f"it ended after {len(ids)} of {count} events"
            ids += [one.id for one in found]
    return ids


async def take_all(follower: Follower) -> list[Event | Resync]:
    """What comes until the end."""
    items: list[Event | Resync] = []
    async with asyncio.timeout(WITHIN):
        while found := await follower.next():
            items += found
    return items


async def heard(journal: Journal, job: str) -> None:
    """Wait until the store knows that somebody hears of *job*."""

    async def so() -> bool:
        return f"hedgerow:events:{job}" in await journal.listening()

    await eventually(so)


async def test_a_follower_gets_what_was_and_then_what_comes(feed: Feed, journal: Journal) -> None:
    job = new_job()
    made = await journal.append_many(job, 5)
    with feed.follow(job) as follower:
        seen = await take(follower, 5)
        for _ in range(5):
            made.append(await journal.append(job))
            seen += await take(follower, 1)
    assert seen == made


async def test_a_follower_gets_only_what_comes_after_its_id(feed: Feed, journal: Journal) -> None:
    job = new_job()
    made = await journal.append_many(job, 5)
    with feed.follow(job, made[2]) as follower:
        assert await take(follower, 2) == made[3:]


async def test_a_long_past_comes_whole(feed: Feed, journal: Journal) -> None:
    job = new_job()
    made = await journal.append_many(job, 3 * PAGE + 1)
    with feed.follow(job) as follower:
        assert await take(follower, len(made)) == made


async def test_news_are_heard_and_not_read(feed: Feed, journal: Journal) -> None:
    job = new_job()
    made = await journal.append_many(job, 1)
    with feed.follow(job) as follower:
        seen = await take(follower, 1)
        reads = journal.reads
        made += await journal.append_many(job, 20)
        seen += await take(follower, 20)
    assert seen == made
    assert journal.reads == reads


@pytest.mark.parametrize(
    "after", ["", "1", "1-", "-1", "1-2-3", "a-b", "1-2\n", "²-1", f"{2**64}-0", "1" * 500]
)
async def test_an_id_that_is_none_is_refused(feed: Feed, after: str) -> None:
    with pytest.raises(ValueError, match="two numbers"), feed.follow(new_job(), after):
        pass


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_the_place_of_an_event_is_its_two_numbers(first: int, second: int) -> None:
    assert place(f"{first}-{second}") == (first, second)


async def test_two_processes_see_the_same_ids(store: Valkey, feed: Feed, journal: Journal) -> None:
    job = new_job()
    async with open_feed(store.url, journal, random.Random(2).random) as other:
        with feed.follow(job) as one, other.follow(job) as two:
            made = await journal.append_many(job, 50)
            assert await take(one, 50) == await take(two, 50) == made


async def test_all_followers_share_one_connection(feed: Feed, journal: Journal) -> None:
    jobs = [new_job() for _ in range(100)]
    async with AsyncExitStack() as stack:
        followers = [stack.enter_context(feed.follow(job)) for job in jobs for _ in range(2)]
        for job in jobs:
            await journal.append(job)
        for follower in followers:
            assert len(await take(follower, 1)) == 1
        assert len(await journal.subscribers()) == 1
        assert len(await journal.listening()) == 100


async def test_nobody_listens_when_the_last_follower_has_gone(feed: Feed, journal: Journal) -> None:
    job = new_job()
    with feed.follow(job):
        with feed.follow(job):
            await heard(journal, job)
        await journal.append(job)
        assert await journal.listening() == [f"hedgerow:events:{job}"]

    async def nobody() -> bool:
        return not await journal.listening()

    await eventually(nobody)


async def test_followers_that_come_and_go_in_a_hurry_miss_nothing(feed: Feed, journal: Journal) -> None:
    job, luck = new_job(), random.Random(7)
    made: list[str] = []

    async def happen() -> None:
        while len(made) < 300:
            made.append(await journal.append(job))

    happening = asyncio.create_task(happen())
    seen: list[str] = []
    at = "0-0"
    async with asyncio.timeout(WITHIN):
        while len(seen) < 300:
            with feed.follow(job, at) as follower:
                if luck.random() < 0.5:
                    seen += [one.id for one in await follower.next()]
            at = seen[-1] if seen else at
            for _ in range(luck.randrange(3)):
                await asyncio.sleep(0)
    await happening
    assert seen == made


async def test_a_follower_whose_connection_is_cut_again_and_again_misses_nothing(
    feed: Feed, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.downloads.channels.FIRST_PAUSE", 0.001)
    job = new_job()
    made: list[str] = []

    async def happen() -> None:
        for number in range(400):
            made.append(await journal.append(job))
            if number % 20 == 10:
                await journal.cut()

    with feed.follow(job) as follower:
        happening = asyncio.create_task(happen())
        seen = await take(follower, 400)
        await happening
    assert seen == made


async def test_after_a_reconnect_events_are_heard_again(
    feed: Feed, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.downloads.channels.FIRST_PAUSE", 1.0)  # so that nobody is seen to listen
    job = new_job()
    with feed.follow(job) as follower:
        made = [await journal.append(job)]
        seen = await take(follower, 1)
        await journal.cut()
        await eventually(lambda: _nobody(journal))
        made.append(await journal.append(job))  # nobody hears this one
        seen += await take(follower, 1)
        await heard(journal, job)
        reads = journal.reads
        made.append(await journal.append(job))
        seen += await take(follower, 1)
    assert seen == made
    assert journal.reads == reads


async def _nobody(journal: Journal) -> bool:
    return not await journal.subscribers()


@pytest.mark.fault(92)
async def test_a_store_that_dies_and_comes_back_loses_no_event(
    own_store: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hedgerow.downloads")
    job = new_job()
    async with (
        open_journal(own_store.url) as journal,
        open_feed(own_store.url, journal, random.Random(1).random) as feed,
    ):
        with feed.follow(job) as follower:
            made = await journal.append_many(job, 3)
            seen = await take(follower, 3)
            for _ in range(2):
                own_store.kill()
                waiting = asyncio.create_task(take(follower, 2))
                await asyncio.to_thread(own_store.start)
                made += await journal.append_many(job, 2)
                seen += await waiting
    assert seen == made
    told = [record.getMessage() for record in caplog.records if "can" in record.getMessage()]
    assert len([text for text in told if "cannot be followed" in text]) <= 2  # one for each death
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_store_that_is_away_at_first_is_found_when_it_comes(own_store: Valkey) -> None:
    job = new_job()
    async with open_journal(own_store.url) as journal:
        made = [await journal.append(job)]
        own_store.kill()
        async with open_feed(own_store.url, journal, random.Random(1).random) as feed:
            with feed.follow(job) as follower:
                waiting = asyncio.create_task(take(follower, 1))
                await asyncio.to_thread(own_store.start)
                assert await waiting == made


async def test_a_store_that_hangs_is_given_up_and_found_again(
    own_store: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    job = new_job()
    async with (
        open_journal(own_store.url) as journal,
        open_feed(own_store.url, journal, random.Random(1).random, silence=0.05) as feed,
    ):
        with feed.follow(job) as follower:
            await heard(journal, job)
            own_store.freeze()
            await until(lambda: "cannot be followed" in caplog.text)
            own_store.thaw()
            made = [await journal.append(job)]
            assert await take(follower, 1) == made


async def test_a_store_that_lets_nobody_listen_is_told_of_once(
    own_store: Valkey, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.downloads.channels.LONGEST_PAUSE", 0.001)
    caplog.set_level(logging.INFO, "hedgerow.downloads")
    job = new_job()
    async with open_journal(own_store.url) as journal:
        await journal.allow("-subscribe")
        async with open_feed(own_store.url, journal, random.Random(1).random) as feed:
            with feed.follow(job) as follower:
                refused = await journal.refused("subscribe")

                async def tried() -> bool:
                    return await journal.refused("subscribe") > refused + 4

                await eventually(tried)
                assert [record.levelname for record in caplog.records] == ["WARNING"]
                await journal.allow("+subscribe")
                made = [await journal.append(job)]
                assert await take(follower, 1) == made
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_store_that_says_nothing_but_lives_is_kept(store: Valkey, journal: Journal) -> None:
    job = new_job()
    async with open_feed(store.url, journal, random.Random(1).random, silence=1.0) as feed:
        with feed.follow(job) as follower:

            async def kept() -> bool:
                """Whether it was asked twice on one connection; one may be lost to a store that is slow."""
                await heard(journal, job)
                subscribers, pings = await journal.subscribers(), await journal.pings()

                async def asked() -> bool:
                    return await journal.pings() > pings + 1

                await eventually(asked)
                return await journal.subscribers() == subscribers

            await eventually(kept)
            made = [await journal.append(job)]
            assert await take(follower, 1) == made


@pytest.mark.fault(96)
async def test_a_follower_that_does_not_read_costs_a_few_events_and_gets_all_later(
    feed: Feed, journal: Journal
) -> None:
    job = new_job()
    with feed.follow(job) as lazy, feed.follow(job) as eager:
        made = await journal.append_many(job, 1000)
        assert await take(eager, 1000) == made
        assert len(lazy._waiting) <= MOST
        assert await take(lazy, 1000) == made


async def test_asking_can_be_given_up_at_any_moment(feed: Feed, journal: Journal) -> None:
    job, luck = new_job(), random.Random(3)
    made: list[str] = []

    async def happen() -> None:
        while len(made) < 300:
            made.append(await journal.append(job))
            if luck.random() < 0.1:
                follower.fall_behind()

    with feed.follow(job) as follower:
        happening = asyncio.create_task(happen())
        seen: list[str] = []
        async with asyncio.timeout(WITHIN):
            while len(seen) < 300:
                asking = asyncio.create_task(follower.next())
                patience = luck.choice([0, 0, 0.0001, 0.001, 0.01])
                _, late = await asyncio.wait([asking], timeout=patience)
                if late:
                    asking.cancel()
                    await asyncio.wait([asking])
                if not asking.cancelled():
                    seen += [one.id for one in asking.result()]
        await happening
    assert seen == made


@pytest.mark.parametrize("kind", ["completed", "failed", "cancelled"])
async def test_it_ends_with_the_job(feed: Feed, journal: Journal, kind: str) -> None:
    job = new_job()
    made = await journal.append_many(job, 3)
    with feed.follow(job) as early:
        await take(early, 3)
        made.append(await journal.append(job, kind))
        assert [one.id for one in await take_all(early)] == made[3:]
    with feed.follow(job) as late:
        assert [one.id for one in await take_all(late)] == made


@pytest.mark.parametrize("count", [PAGE - 1, PAGE, PAGE + 1, 2 * PAGE])
async def test_it_ends_also_at_the_edge_of_a_page(feed: Feed, journal: Journal, count: int) -> None:
    job = new_job()
    await journal.append_many(job, count - 1)
    await journal.append(job, "completed")
    with feed.follow(job) as follower:
        assert len(await take_all(follower)) == count


async def test_a_job_that_was_revived_is_followed_to_its_second_end(feed: Feed, journal: Journal) -> None:
    job = new_job()
    kinds = ["queued", "failed", "queued", "running", "completed"]
    for kind in kinds:
        await journal.append(job, kind)
    with feed.follow(job) as follower:
        items = await take_all(follower)
    assert [item.kind for item in items if isinstance(item, Event)] == kinds


async def test_who_has_missed_forgotten_events_gets_the_job_as_it_stands(
    feed: Feed, journal: Journal
) -> None:
    job = new_job()
    made = await journal.append_many(job, 10)
    await journal.trim(job, 3)
    with feed.follow(job, made[2]) as follower:
        [item] = await follower.next()
        assert isinstance(item, Resync)
        assert item.id == item.job.last_event == made[-1]
        last = await journal.append(job, "completed")
        assert [one.id for one in await take_all(follower)] == [last]


async def test_an_id_from_a_future_that_the_store_has_forgotten_is_put_right(
    feed: Feed, journal: Journal
) -> None:
    job = new_job()
    made = await journal.append_many(job, 2)
    with feed.follow(job, f"{2**63}-0") as follower:
        assert await take(follower, 1) == made[-1:]
        made.append(await journal.append(job))
        assert await take(follower, 1) == made[-1:]


async def test_it_ends_when_the_job_is_forgotten(feed: Feed, journal: Journal) -> None:
    job = new_job()
    made = await journal.append_many(job, 2)
    await journal.forget(job)
    with feed.follow(job, made[0]) as follower:
        assert await take_all(follower) == []


async def test_an_end_is_waited_for_as_long_as_it_was_asked(feed: Feed, journal: Journal) -> None:
    name = new_job()
    await journal.append(name, "running")
    job = await journal.view(name)
    assert job is not None
    assert not await feed.ended(job, 0.02)
    assert not await feed.ended(job, 0)
    waiting = asyncio.create_task(feed.ended(job, WITHIN))
    await heard(journal, name)
    await journal.append(name, "failed")
    assert await waiting
    assert await feed.ended(job, WITHIN)  # it was seen last before its end
    done = await journal.view(name)
    assert done is not None
    assert await feed.ended(done, 0)


async def test_who_stops_a_follower_wakes_it(feed: Feed) -> None:
    with feed.follow(new_job()) as follower:
        waiting = asyncio.create_task(follower.next())
        await asyncio.sleep(0)
        follower.stop()
        assert await waiting == ()


async def test_the_end_of_the_feed_is_the_end_of_its_followers(store: Valkey, journal: Journal) -> None:
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:
        async with open_feed(store.url, journal, random.Random(1).random) as feed:
            follower = stack.enter_context(feed.follow(new_job()))
            waiting = asyncio.create_task(follower.next())
            await asyncio.sleep(0)
        assert await waiting == ()
        with feed.follow(new_job()) as late:
            assert await late.next() == ()
    assert asyncio.all_tasks() == before


async def test_what_is_no_event_makes_followers_look(feed: Feed, journal: Journal, store: Valkey) -> None:
    job = new_job()
    with feed.follow(job) as follower:
        await heard(journal, job)
        made = [await journal.append(job, tell=False)]
        async with Redis.from_url(store.url) as redis:
            await redis.publish(f"hedgerow:events:{job}", b"what\xff")
        assert await take(follower, 1) == made


async def test_an_event_that_nobody_told_of_is_found_in_a_while(
    store: Valkey, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK", 0.01)
    job = new_job()
    async with open_feed(store.url, journal, random.Random(1).random) as feed:
        with feed.follow(job) as follower:
            made = [await journal.append(job)]
            assert await take(follower, 1) == made
            made = [await journal.append(job, tell=False)]
            assert await take(follower, 1) == made


async def test_a_job_of_the_records_is_followed_from_its_first_event_to_its_last(store: Valkey) -> None:
    async with Redis.from_url(store.url) as redis:
        records = Records(redis, time.time)
        async with open_feed(store.url, records, random.Random(1).random) as feed:
            new = NewJob(new_job(), "someone", (70000, 70007), None, "request", None, "body")
            job = (await records.create(new)).job
            ending = asyncio.create_task(feed.ended(job, WITHIN))
            with feed.follow(job.id) as follower:
                items = asyncio.create_task(take_all(follower))
                claim = await records.claim(job.id, "worker")
                assert claim is not None
                for number in new.file_ids:
                    await records.update(job.id, claim.run, File(number, FileState.RUNNING, 50))
                    await records.update(job.id, claim.run, File(number, FileState.COMPLETED, 100, size=1))
                done = await records.finish(job.id, claim.run, JobState.COMPLETED, None)
                found = await items
            assert await ending
            kinds = [item.kind for item in found if isinstance(item, Event)]
            assert kinds == ["queued", "running", "progress", "file", "progress", "file", "completed"]
            assert found[-1].id == done.last_event
            with feed.follow(job.id, f"{2**63}-0") as follower:
                [resync] = await take_all(follower)
                assert isinstance(resync, Resync)
                assert resync.job == done


class Failing:
    """A client that fails at the moment in which it is cancelled."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()

    def pubsub(self) -> Failing:
        return self

    async def __aenter__(self) -> Failing:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def get_message(self, timeout: None) -> None:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ConnectionError("the store has gone")


async def test_a_store_that_goes_at_the_same_moment_does_not_keep_the_feed_from_ending() -> None:
    client = Failing()
    channels = Channels(client, lambda *heard: None, print, random.Random(1).random)  # type: ignore[arg-type]
    running = asyncio.create_task(channels.run())
    await client.waiting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


# A follower alone, with records that the test holds in its hands.


class Held:
    """Records that answer when they are let."""

    def __init__(self, *events: Event) -> None:
        self.stream = list(events)
        self.asked = asyncio.Event()
        self.let = asyncio.Event()
        self.fault: Exception | None = None
        self.reads = 0

    async def events(self, job_id: str, after: str, count: int) -> Read:
        self.reads += 1
        found = tuple(one for one in self.stream if place(one.id) > place(after))[:count]
        self.asked.set()
        await self.let.wait()
        if self.fault is not None:
            raise self.fault
        return Read(found, True)

    async def view(self, job_id: str) -> Job | None:
        return Job(job_id, "someone", JobState.RUNNING, (File(70000),), 0.0)


def event(number: int) -> Event:
    return Event(f"{number}-0", "progress", b"{}")


def following(records: Held, retry: Callable[[], float | None] = lambda: None) -> Follower:
    follower = Follower("job", "0-0", records, asyncio.Semaphore(), retry)
    follower.fall_behind()
    return follower


def tell(follower: Follower, *numbers: int) -> None:
    for number in numbers:
        follower.take(event(number), (number, 0))


async def test_events_during_a_read_come_once() -> None:
    records = Held(event(1), event(2), event(3))
    follower = following(records)
    reading = asyncio.create_task(follower.next())
    await records.asked.wait()
    tell(follower, 2, 3, 4, 5)  # two of them are in the answer that is under way
    records.let.set()
    assert [one.id for one in await reading] == ["1-0", "2-0", "3-0"]
    assert [one.id for one in await follower.next()] == ["4-0", "5-0"]
    assert records.reads == 1


async def test_a_cancellation_that_a_library_loses_is_not_lost() -> None:
    """`asyncio.wait_for` does that before Python 3.12, and the store's client sends with it."""

    class Deaf(Held):
        async def events(self, job_id: str, after: str, count: int) -> Read:
            with suppress(asyncio.CancelledError):
                return await super().events(job_id, after, count)
            return Read((event(1),), True)

    records = Deaf(event(1))
    follower = following(records)
    reading = asyncio.create_task(follower.next())
    await records.asked.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    records.let.set()
    assert [one.id for one in await follower.next()] == ["1-0"]


async def test_what_was_missed_during_a_read_is_read_again() -> None:
    records = Held(event(1))
    follower = following(records)
    reading = asyncio.create_task(follower.next())
    await records.asked.wait()
    records.stream.append(event(2))
    follower.fall_behind()  # the connection was lost and is back
    tell(follower, 3)
    records.stream.append(event(3))
    records.let.set()
    assert [one.id for one in await reading] == ["1-0"]
    assert [one.id for one in await follower.next()] == ["2-0", "3-0"]


async def test_a_failed_read_is_tried_again_in_a_while() -> None:
    records = Held(event(1))
    records.let.set()
    records.fault = JobStoreDown("The job store is away.")
    follower = following(records, lambda: 0.001)
    reading = asyncio.create_task(follower.next())
    await until(lambda: records.reads == 3)
    records.fault = None
    assert [one.id for one in await reading] == ["1-0"]


async def test_while_nothing_is_heard_a_failed_read_waits_for_that() -> None:
    records = Held(event(1))
    records.let.set()
    records.fault = ConnectionRefusedError()
    follower = following(records)
    reading = asyncio.create_task(follower.next())
    for _ in range(20):
        await asyncio.sleep(0)
    assert records.reads == 1
    records.fault = None
    follower.fall_behind()
    assert [one.id for one in await reading] == ["1-0"]


@given(st.lists(st.sampled_from(["event", "deaf", "cut", "next"]), max_size=200), st.integers(0, 3))
def test_whatever_is_heard_and_missed_each_event_comes_once(steps: list[str], speed: int) -> None:
    """Events are heard or, for a while, not; after that the follower is told that it may have missed some."""

    async def play() -> None:
        records = Held()
        records.let.set()
        follower, seen, hears = following(records), list[str](), True

        async def ask() -> None:
            seen.extend(one.id for one in await follower.next())

        asking = asyncio.create_task(ask())
        for step in [*steps, "cut"]:
            if step == "event":
                records.stream.append(event(len(records.stream) + 1))
                if hears:
                    tell(follower, len(records.stream))
            elif step == "next":
                if asking.done():
                    asking = asyncio.create_task(ask())
            elif step == "deaf":
                hears = False
            elif not hears or step == "cut":
                hears = True
                follower.fall_behind()
            for _ in range(speed):
                await asyncio.sleep(0)
        while len(seen) < len(records.stream):
            if asking.done():
                asking = asyncio.create_task(ask())
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        assert seen == [one.id for one in records.stream]
        assert in_order(seen)

    asyncio.run(play())
