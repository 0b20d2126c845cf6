"""A store with a URL, as the server has it: bounded, and honest about what it keeps."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.job_store import opening
from server.job_store.opening import (
    JobStore,
    JobStoreConfig,
    JobStoreDown,
    JobStoreError,
    JobStoreFull,
    job_store_errors,
    open_job_store,
)
from tests.job_store.stores import Valkey, valkey

PASSWORD = "hunter2secret"
SOON = 10.0
"""Seconds in which what happens by itself has happened, on a busy machine too."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that runs many tests may be slow to answer a check."""
    monkeypatch.setattr(opening, "CHECK", SOON)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """A Valkey as an operator would have it."""
    with valkey(tmp_path / "valkey", appendfsync="always") as one:
        yield one


def config(url: str, patience: float = SOON, connections: int = 64) -> JobStoreConfig:
    return JobStoreConfig(url, Path("unused"), patience, connections)


async def write(store: JobStore) -> None:
    with job_store_errors():
        await store.redis.set("key", "x" * 10_000)


async def met(caplog: pytest.LogCaptureFixture) -> None:
    """Wait until the log says which store it is."""
    async with asyncio.timeout(SOON):
        while not any(" is " in one for one in messages(caplog, logging.INFO)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def well(store: JobStore) -> None:
    """Wait until it answers."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                return await store.check()
            except JobStoreError:
                await asyncio.sleep(0.01)


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno == level]


async def test_a_store_is_named_once_in_the_log_when_it_first_answers(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_job_store(config(server.url)) as store:
        await met(caplog)
        server.kill()
        server.start()
        await well(store)
        assert not store.embedded
        assert await store.durable() is None
    assert messages(caplog, logging.INFO) == [f"The job store is {server.url}."]
    assert messages(caplog, logging.WARNING) == []


@pytest.mark.fault(87)
async def test_a_store_that_is_away_does_not_delay_the_opening_and_is_met_later(
    server: Valkey, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    server.kill()
    begun = time.monotonic()
    async with open_job_store(config(server.url)) as store:
        assert time.monotonic() - begun < SOON / 2
        with pytest.raises(JobStoreDown):
            await store.check()
        with pytest.raises(JobStoreDown):
            await store.durable()
        async with asyncio.timeout(SOON):
            while not messages(caplog, logging.WARNING):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        server.start()
        await met(caplog)
        await store.check()
    assert len(messages(caplog, logging.WARNING)) == 1


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"appendonly": "no"}, "appendonly yes"),
        ({"appendfsync": "everysec"}, "appendfsync always"),
        ({"maxmemory_policy": "allkeys-lru"}, "noeviction"),
    ],
)
async def test_a_store_that_may_lose_jobs_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, str], word: str
) -> None:
    caplog.set_level(logging.INFO)
    with valkey(tmp_path, **{"appendfsync": "always", **settings}) as server:
        async with open_job_store(config(server.url)) as store:
            await met(caplog)
            assert word in (await store.durable() or "")
            server.kill()
            server.start()
            await well(store)
    warnings = messages(caplog, logging.WARNING)
    assert len(warnings) == 1
    assert word in warnings[0]


async def test_a_store_that_does_not_tell_whether_it_lasts_is_doubted(server: Valkey) -> None:
    async with open_job_store(config(server.url)) as store:
        await store.redis.execute_command("ACL", "SETUSER", "default", "-info", "-config")
        assert "does not tell" in (await store.durable() or "")


@pytest.mark.fault(92)
async def test_a_store_that_hangs_is_down_within_the_patience_for_any_number_of_callers(
    server: Valkey,
) -> None:
    async with open_job_store(config(server.url, patience=3.0, connections=4)) as store:
        await store.check()
        server.freeze()
        begun = time.monotonic()
        found = await asyncio.gather(*(write(store) for _ in range(100)), return_exceptions=True)
        took = time.monotonic() - begun
        with pytest.raises(JobStoreDown):
            await store.check()
        server.thaw()
        await well(store)
        await write(store)
    assert {type(one) for one in found} == {JobStoreDown}
    assert took < 100 / 4, "one after the other"


async def test_more_callers_than_connections_are_all_served(server: Valkey) -> None:
    async with open_job_store(config(server.url, connections=2)) as store:
        counts = await asyncio.gather(*(store.redis.incr("count") for _ in range(200)))
        assert sorted(counts) == [*range(1, 201)]
        assert int((await store.redis.info("clients"))["connected_clients"]) <= 2


async def test_a_caller_who_is_cancelled_stops_whatever_the_store_was_doing(server: Valkey) -> None:
    async with open_job_store(config(server.url)) as store:
        for turns in range(1, 50):
            caller = asyncio.create_task(store.check())
            for _ in range(turns):
                await asyncio.sleep(0)
            if caller.done():
                return caller.result()
            caller.cancel()
            await asyncio.wait({caller})
            assert caller.cancelled(), turns
        await store.check()  # a store that is slow to answer does so after all these turns


@pytest.mark.fault(92)
async def test_after_a_restart_of_the_store_the_next_command_just_works(server: Valkey) -> None:
    async with open_job_store(config(server.url)) as store:
        await asyncio.gather(*(store.redis.set(f"key{n}", "value") for n in range(20)))
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        assert await store.redis.get("key1") == b"value"


@pytest.mark.fault(92)
async def test_a_store_without_memory_is_full_until_it_has_some(tmp_path: Path) -> None:
    with valkey(tmp_path, maxmemory="1") as server:
        async with open_job_store(config(server.url)) as store:
            await store.check()
            with pytest.raises(JobStoreFull):
                await write(store)
            await store.redis.config_set("maxmemory", "0")
            await write(store)


@pytest.mark.fault(92)
async def test_a_replica_is_down_until_it_is_promoted(server: Valkey) -> None:
    async with open_job_store(config(server.url)) as store:
        await store.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(JobStoreDown):
            await write(store)
        await store.redis.execute_command("REPLICAOF", "NO", "ONE")
        await write(store)


@pytest.mark.fault(101)
async def test_a_wrong_password_is_down_and_is_shown_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with valkey(tmp_path, requirepass="another") as server:
        asked = config(f"{server.url}?password={PASSWORD}")
        async with open_job_store(asked) as store:
            with pytest.raises(JobStoreDown) as caught:
                await store.check()
            told = "".join(traceback.format_exception(caught.value))
            shown = f"{asked!r} {store!r} {store.redis!r} {caplog.text} {told}"
    assert "WRONGPASS" in told or "invalid username-password" in told
    assert PASSWORD not in shown


async def test_the_right_password_is_shown_nowhere_either(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with valkey(tmp_path, requirepass=PASSWORD) as server:
        asked = config(f"{server.url}?password={PASSWORD}")
        async with open_job_store(asked) as store:
            await met(caplog)
            await write(store)
            assert PASSWORD in store.url
            assert PASSWORD not in f"{asked!r} {store!r} {store.redis!r} {caplog.text}"


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}/x@db:6379/0",
        f"redis://:1234#{PASSWORD}@db:6379/0",
        f"redis://:12?{PASSWORD}@db",
        f"redis://db:{PASSWORD}",
        f"redis://db?{PASSWORD}=1",
        f"redis://db?db={PASSWORD}",
        f"redis://[{PASSWORD}",
        f"http://:{PASSWORD}@db:6379",
        f"{PASSWORD}",
        "",
    ],
)
async def test_what_is_no_address_of_a_store_stops_the_start_and_is_not_repeated(url: str) -> None:
    with pytest.raises(JobStoreError, match="REDIS_URL") as caught:
        async with open_job_store(config(url)):
            pass
    told = "".join(traceback.format_exception(caught.value, chain=True))
    assert PASSWORD not in told.replace(f'url = "{url}"', "")
    assert PASSWORD not in repr(config(url))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{PASSWORD}@db/2", "redis://db:6379/2"),
        (f"rediss://user:{PASSWORD}@db:7000", "rediss://db:7000"),
        (f"redis://db?password={PASSWORD}", "redis://db:6379"),
        (f"unix:///run/valkey.sock?password={PASSWORD}", "unix:///run/valkey.sock"),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert repr(config(url)) == f"JobStoreConfig({shown}, patience={SOON}, connections=64)"
