"""``python -m server jobs`` against a real store: what an operator sees, what it changes, how it fails."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar, cast

import pytest
import redis
from redis.asyncio import Redis

from server import jobs_cli
from server.__main__ import main
from server.downloads.callbacks import message_id
from server.downloads.engine import CALLBACK, JOB, Again, open_queue, working
from server.downloads.jobs import File, FileState, Job, JobState
from server.downloads.records import NewJob, Records
from server.job_store import opening
from server.job_store.opening import JobStoreConfig, open_job_store
from server.jobs_cli import table
from strategies import value
from tests.downloads.whole import PATIENCE, be_patient
from tests.job_store.stores import Valkey, valkey

T = TypeVar("T")
Ask = Callable[[Callable[[Records], Awaitable[T]]], T]
ROOT = Path(__file__).parents[2]
HOOK = "https://user:pass@hooks.example:8443/T0K3N?key=5ecret"
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@value
class Outcome:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """The words of each line."""
        return [line.split() for line in self.out.splitlines()]


Jobs = Callable[..., Outcome]


@pytest.fixture(scope="session")
def cli_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A job store for all tests that do not harm it."""
    with valkey(tmp_path_factory.mktemp("cli"), appendfsync="no") as store:
        yield store


@pytest.fixture
def url(cli_store: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store, which commands find."""
    with redis.Redis.from_url(cli_store.url) as client:
        client.flushall()
    be_patient(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", cli_store.url)
    return cli_store.url


@pytest.fixture
def jobs(capsys: pytest.CaptureFixture[str]) -> Jobs:
    """``jobs("list")`` as typed."""

    def run(*words: str) -> Outcome:
        code = main(["jobs", *words])
        return Outcome(code, *capsys.readouterr())

    return run


def ask(url: str, what: Callable[[Records], Awaitable[T]]) -> T:
    """What the records of the store at *url* answer."""

    async def go() -> T:
        async with Redis.from_url(url) as client:
            return await what(Records(client, time.time))

    return asyncio.run(go())


async def make(records: Records, *files: int, client: str = "192.0.2.7", callback: str | None = None) -> Job:
    """A job that is queued; with one file if none is named."""
    new = NewJob(str(uuid.uuid4()), client, files or (70000,), callback, "request-1", None, "")
    return (await records.create(new)).job


async def end(records: Records, job: Job, error: str | None = None) -> Job:
    """Complete it, or fail it because of *error*."""
    claim = await records.claim(job.id, "test")
    assert claim is not None
    state = FileState.COMPLETED if error is None else FileState.FAILED
    for file in job.files:
        await records.update(job.id, claim.run, File(file.id, state, 100, 5, 1, error))
    return await records.finish(
        job.id, claim.run, JobState.COMPLETED if error is None else JobState.FAILED, error
    )


async def running(records: Records) -> Job:
    """A job that is worked on, with a callback."""
    job = await make(records, callback=HOOK)
    await records.claim(job.id, "test")
    return job


async def completed(records: Records) -> Job:
    """A job that has completed and has no callback."""
    return await end(records, await make(records))


async def known(records: Records, job: Job) -> Job:
    """The job, as it stands now."""
    found = await records.view(job.id)
    assert found is not None
    return found


def waiting(url: str, kind: str) -> int:
    """How many jobs wait in the queue of *kind*."""

    with redis.Redis.from_url(url) as store:
        return cast(int, store.xlen(f"hedgerow:{kind}:stream"))


async def nobody(job_id: str, look: int) -> Again | None:
    """Work that is not done here."""
    raise NotImplementedError


def test_list_shows_the_jobs_of_all_clients_newest_first(url: str, jobs: Jobs) -> None:
    """In columns."""

    async def some(records: Records) -> tuple[Job, Job]:
        first = await end(records, await make(records, 70000, 70007), "It burnt down.")
        return first, await make(records, client="2001:db8::1")

    first, second = ask(url, some)
    outcome = jobs("list")
    assert (outcome.code, outcome.err) == (0, "")
    head, *rows = outcome.rows
    assert head == ["ID", "STATE", "FILES", "PERCENT", "CREATED", "AGE", "CLIENT", "ERROR"]
    assert [row[:5] for row in rows] == [
        [second.id, "queued", "0/1", "0", "%"],
        [first.id, "failed", "0/2", "100", "%"],
    ]
    assert [row[7:] for row in rows] == [["2001:db8::1", "-"], ["192.0.2.7", "It", "burnt", "down."]]
    assert len({line.rindex("  ") for line in outcome.out.splitlines()}) == 1


def test_list_of_nothing_is_its_head(url: str, jobs: Jobs) -> None:
    """And no error."""
    outcome = jobs("list")
    assert (outcome.code, len(outcome.rows)) == (0, 1)


def test_list_can_be_of_some_states(url: str, jobs: Jobs) -> None:
    """Named with commas."""

    async def some(records: Records) -> list[Job]:
        made = [await make(records) for _ in range(3)]
        await end(records, made[0])
        await records.claim(made[1].id, "test")
        return made

    made = ask(url, some)
    outcome = jobs("list", "--state", "queued,running")
    assert [row[0] for row in outcome.rows[1:]] == [made[2].id, made[1].id]


def test_list_ends_at_its_limit_and_not_at_that_of_a_page(
    url: str, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are put together."""
    monkeypatch.setattr(jobs_cli, "PAGE", 2)

    async def some(records: Records) -> list[str]:
        return [(await make(records)).id for _ in range(7)]

    ids = ask(url, some)[::-1]
    assert [row[0] for row in jobs("list").rows[1:]] == ids
    assert [row[0] for row in jobs("list", "--limit", "5").rows[1:]] == ids[:5]


def test_list_can_be_json(url: str, jobs: Jobs) -> None:
    """As the API tells of jobs, and whose they are."""
    job = ask(url, make)
    (told,) = json.loads(jobs("list", "--json").out)
    assert (told["jobId"], told["status"], told["client"], told["runs"]) == (job.id, "queued", job.client, 0)


@pytest.mark.fault(101)
def test_show_tells_all_of_a_job_but_the_secret_of_its_callback(url: str, jobs: Jobs) -> None:
    """Only where it goes."""

    async def one(records: Records) -> Job:
        job = await end(records, await make(records, 70000, 70007, callback=HOOK), "It burnt down.")
        for attempt in (1, 2, 3):
            assert await records.attempted(job.id, job.last_event, attempt, "It answered 500.")
        return job

    job = ask(url, one)
    outcome = jobs("show", job.id)
    assert outcome.code == 0
    rows = {row[0]: row[1:] for row in outcome.rows if row}
    assert rows["job"] == [job.id]
    assert rows["state"] == ["failed,", "100", "%"]
    assert rows["error"] == ["It", "burnt", "down."]
    assert rows["runs"] == ["1"]
    assert " ".join(rows["callback"]) == "https://hooks.example:8443, pending, 3 attempts: It answered 500."
    assert rows["70007"] == ["failed", "100", "%", "5", "1", "It", "burnt", "down."]

    as_json = jobs("show", job.id.upper(), "--json").out
    told = json.loads(as_json)
    assert [file["fileId"] for file in told["files"]] == [70000, 70007]
    assert told["callback"]["origin"] == "https://hooks.example:8443"
    assert told["callback"]["attempts"] == 3
    for secret in ("user", "pass", "T0K3N", "5ecret"):
        assert secret not in outcome.out
        assert secret not in as_json


def test_cancel_ends_a_job_once_and_takes_it_out_of_the_queue(url: str, jobs: Jobs) -> None:
    """Its callback is to be told. To cancel it again is no mistake."""

    async def one(records: Records) -> Job:
        job = await make(records, callback=HOOK)
        async with open_queue(url, JOB, nobody, 1) as queue:
            await queue.put(job.id, job.client)
        return job

    job = ask(url, one)
    assert waiting(url, JOB) == 1
    for _ in range(2):
        outcome = jobs("cancel", job.id)
        assert (outcome.code, outcome.out) == (0, f"{job.id} is cancelled.\n")
    assert ask(url, lambda records: known(records, job)).state is JobState.CANCELLED
    assert (waiting(url, JOB), waiting(url, CALLBACK)) == (0, 1)


@pytest.mark.parametrize("how", ["failed", "cancelled"])
def test_retry_queues_again_what_came_to_nothing(url: str, jobs: Jobs, how: str) -> None:
    """And gives up telling of the end that is none any more."""

    async def one(records: Records) -> Job:
        job = await make(records, callback=HOOK)
        if how == "failed":
            await end(records, job, "It burnt down.")
        else:
            await records.cancel(job.id)
        async with open_queue(url, CALLBACK, nobody, 1) as queue:
            await queue.put(job.id, job.client)
        return job

    job = ask(url, one)
    outcome = jobs("retry", job.id)
    assert (outcome.code, outcome.out) == (0, f"{job.id} is queued again.\n")
    again = ask(url, lambda records: known(records, job))
    assert (again.state, again.error) == (JobState.QUEUED, None)
    assert (waiting(url, JOB), waiting(url, CALLBACK)) == (1, 0)


@pytest.mark.parametrize("outcome", ["delivered", "disabled", "given_up"])
def test_replay_sends_the_same_message_again_whatever_became_of_it(
    url: str, jobs: Jobs, outcome: str
) -> None:
    """With all its attempts before it, and the id by which the receiver knows it."""

    async def one(records: Records) -> Job:
        job = await end(records, await make(records, callback=HOOK))
        assert await records.attempted(job.id, job.last_event, 1, "It answered 500.")
        assert await records.settle(job.id, job.last_event, outcome, 2)
        return job

    job = ask(url, one)
    assert jobs("replay", job.id).code == 0
    again = ask(url, lambda records: known(records, job))
    assert again.callback is not None
    assert (again.callback.state, again.callback.attempts, again.callback.detail) == ("pending", 0, None)
    assert again.callback.url == HOOK
    assert message_id(again) == message_id(job)
    assert waiting(url, CALLBACK) == 1


@pytest.mark.parametrize("state", [make, running, completed])
def test_only_an_end_that_has_a_callback_is_owed_again(
    url: str, state: Callable[[Records], Awaitable[Job]]
) -> None:
    """Whoever asks, also between two looks at the job."""
    job = ask(url, state)
    before = ask(url, lambda records: known(records, job))
    assert ask(url, lambda records: records.owe(job.id)) == before
    assert ask(url, lambda records: records.owe(UNKNOWN)) is None


async def test_replay_does_not_wait_for_the_next_attempt(url: str) -> None:
    """That may be due in hours."""
    looks, looked = 0, asyncio.Event()

    async def work(job_id: str, look: int) -> Again:
        nonlocal looks
        looks += 1
        looked.set()
        return Again(3600.0)

    async with Redis.from_url(url) as client, open_queue(url, CALLBACK, work, 1) as queue:
        records = Records(client, time.time)
        job = await end(records, await make(records, callback=HOOK))
        async with working(queue, 1):
            await queue.put(job.id, job.client)
            for wanted in (1, 2):
                async with asyncio.timeout(10):
                    await looked.wait()
                looked.clear()
                assert looks == wanted
                if wanted == 1:
                    assert await asyncio.to_thread(main, ["jobs", "replay", job.id]) == 0


@pytest.mark.parametrize(
    ("command", "state"),
    [
        ("cancel", completed),
        ("retry", make),
        ("retry", running),
        ("retry", completed),
        ("replay", running),
        ("replay", completed),
    ],
)
def test_what_cannot_be_done_in_this_state_is_said_and_nothing_is_done(
    url: str, jobs: Jobs, command: str, state: Callable[[Records], Awaitable[Job]]
) -> None:
    """Exit code 1 and one line."""
    job = ask(url, state)
    before = ask(url, lambda records: known(records, job))
    outcome = jobs(command, job.id)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (1, "", 1)
    assert ask(url, lambda records: known(records, job)) == before
    assert (waiting(url, JOB), waiting(url, CALLBACK)) == (0, 0)


@pytest.mark.parametrize("command", ["show", "cancel", "retry", "replay"])
@pytest.mark.parametrize("job_id", [UNKNOWN, "7", "a\nb", ""])
def test_a_job_that_there_is_not_is_said(url: str, jobs: Jobs, command: str, job_id: str) -> None:
    """Exit code 1 and one line, whatever was typed."""
    outcome = jobs(command, job_id)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"There is no job {job_id!r}.\n"


@pytest.mark.fault(101)
def test_a_store_that_is_away_is_said_without_its_password(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 3 and one line with its address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", "redis://me:hush@127.0.0.1:1/2")
    outcome = jobs("list")
    assert (outcome.code, outcome.out) == (3, "")
    assert outcome.err == "redis://127.0.0.1:1/2: The job store cannot be reached at the moment.\n"


def test_a_store_that_hangs_is_not_waited_for(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor at the end of the command."""
    monkeypatch.chdir(tmp_path)
    with valkey(tmp_path / "store") as store:
        monkeypatch.setenv("REDIS_URL", store.url)
        store.freeze()
        began = time.monotonic()
        outcome = jobs("cancel", UNKNOWN)
        assert time.monotonic() - began < 15
    assert outcome.code == 3
    assert outcome.err.endswith(": The job store does not answer at the moment.\n")


def test_a_store_that_holds_something_else_is_said(url: str, jobs: Jobs) -> None:
    """Its own words, and no traceback."""
    with redis.Redis.from_url(url) as client:
        client.set("hedgerow:jobs", "x")
    outcome = jobs("list")
    assert outcome.code == 3
    assert "WRONGTYPE" in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the embedded store would be."""
    be_patient(monkeypatch)
    monkeypatch.setattr(opening, "EMBEDDED_STARTS", PATIENCE)
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / ".data"


def test_in_a_folder_that_no_server_has_used_none_is_started(own_folder: Path, jobs: Jobs) -> None:
    """It is more likely that the folder is the wrong one."""
    outcome = jobs("list")
    assert outcome.code == 3
    assert outcome.err == ".data: There is no job store in this folder: no server has used it.\n"
    assert not own_folder.exists()


def test_an_embedded_store_is_started_for_the_time_of_the_command(own_folder: Path, jobs: Jobs) -> None:
    """There are jobs in its files."""

    async def one() -> Job:
        async with open_job_store(JobStoreConfig(None, own_folder, PATIENCE)) as store:
            return await make(Records(store.redis, time.time))

    job = asyncio.run(one())
    assert [row[0] for row in jobs("list").rows] == ["ID", job.id]
    assert not (own_folder / "valkey" / "valkey.sock").exists(), "it was stopped"
    assert jobs("cancel", job.id).code == 0
    assert jobs("list").rows[1][1] == "cancelled"


def test_a_reader_that_has_seen_enough_is_no_error(url: str) -> None:
    """``jobs list | head``."""
    ask(url, make)
    with ExitStack() as stack:
        read, write = os.pipe()
        stack.callback(os.close, write)
        os.close(read)
        ended = subprocess.run(
            [sys.executable, "-m", "server", "jobs", "list"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "REDIS_URL": url},
            stdout=write,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_table_cannot_be_spoilt_by_what_it_shows() -> None:
    """Control characters do not reach the terminal."""
    assert table(("A", "B"), [("\x1b[2J", None), (7, "x\ny")]) == "A     B\n?[2J  -\n7     x?y\n"
