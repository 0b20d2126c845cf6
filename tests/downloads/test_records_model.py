"""Job records against a plain model of what they promise, over random histories on a real store."""

from __future__ import annotations

import asyncio
import itertools
import math
import uuid
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.asyncio import Redis

from server.downloads.jobs import DONE, ENDED, Callback, File, FileState, Job, JobState, Summary
from server.downloads.records import KeyReused, Records, Superseded, TooManyJobs
from tests.downloads.recording import ALL, KEEP, contents, new_job
from tests.job_store.stores import Valkey, valkey

T = TypeVar("T")
MOST_OPEN = 2
MOST_JOBS = 4
HOUR = 3600.0
RUNS = st.sampled_from((0, 0, 0, 0, -1, 1))
"""Which run speaks: the latest, mostly."""


@pytest.fixture(scope="session")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A store for the histories."""
    with valkey(tmp_path_factory.mktemp("model")) as store:
        yield store


@dataclass(frozen=True)
class Attempt:
    """One to tell of a job's end, as its worker knows it."""

    job: str
    life: int
    end: str
    number: int


@dataclass
class Model:
    """A job as it ought to be: each change is made to each file at once."""

    id: str
    client: str
    files: dict[int, File]
    created: float
    callback: Callback | None
    state: JobState = JobState.QUEUED
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    run: int = 0
    held: bool = False
    deaths: int = 0
    life: int = 0
    kinds: list[str] = field(default_factory=lambda: ["queued"])
    told: bool = True
    """Whether the latest event says how far the job is: a new run drops what was in the middle, silently."""

    def tell(self, kind: str) -> None:
        self.kinds.append(kind)
        self.told = True

    def may_write(self, run: int) -> bool:
        return self.state is JobState.RUNNING and run == self.run

    def claim(self, now: float) -> bool:
        if self.state in ENDED:
            return False
        self.run, self.deaths, self.held = self.run + 1, self.deaths + self.held, True
        for file in self.files.values():
            if file.state is FileState.RUNNING:
                self.files[file.id] = File(file.id, attempts=file.attempts)
                self.told = False
        if self.state is JobState.QUEUED:
            self.state, self.started = JobState.RUNNING, now
            self.tell("running")
        return True

    def update(self, file: File) -> None:
        former = self.files[file.id]
        file = (
            replace(file, percent=max(file.percent, former.percent)) if former.state not in DONE else former
        )
        if file != former:
            self.files[file.id] = file
            self.tell("file" if file.state in DONE else "progress")

    def end(self, state: JobState, error: str | None, now: float) -> None:
        rest = FileState.FAILED if state is JobState.FAILED else FileState.CANCELLED
        for file in self.files.values():
            if file.state not in DONE:
                self.files[file.id] = replace(file, state=rest, error=error)
        self.state, self.error, self.ended = state, error, now
        self.tell(state.value)

    def revive(self) -> None:
        if self.state not in (JobState.FAILED, JobState.CANCELLED):
            return
        for file in self.files.values():
            if file.state is not FileState.COMPLETED:
                self.files[file.id] = File(file.id, attempts=file.attempts)
        self.state, self.error, self.ended, self.started = JobState.QUEUED, None, None, None
        self.held, self.deaths, self.life = False, 0, self.life + 1
        if self.callback is not None:
            self.callback = Callback(self.callback.url)
        self.tell("queued")

    def hears_of(self, attempt: Attempt) -> bool:
        """Whether a late word of that attempt still says something."""
        if self.callback is None or self.state not in ENDED or self.life != attempt.life:
            return False
        return attempt.number <= self.callback.attempts + 1

    @property
    def owes(self) -> bool:
        return self.state not in ENDED or (self.callback is not None and not self.callback.settled)


class Histories(RuleBasedStateMachine):
    """Several workers, callers and an operator on a clock that jumps; after each step all is compared."""

    store: Valkey
    jobs = Bundle("jobs")
    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.now = 1_700_000_000.0
        self.prefix = f"m{uuid.uuid4().hex}"
        self.redis = Redis.from_url(self.store.url)
        self.records = Records(
            self.redis, lambda: self.now, keep=KEEP, most_open=MOST_OPEN, prefix=self.prefix
        )
        self.models: dict[str, Model] = {}
        self.latest: Model | None = None
        self.keys: dict[tuple[str, str], tuple[str, str]] = {}

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def teardown(self) -> None:
        try:
            for model in self.models.values():
                self.compare(model)
        finally:
            self.close()

    def close(self) -> None:
        held = self.do(contents(self.redis, self.prefix))
        self.do(self.redis.aclose())
        self.runner.close()
        for_ever = {name.decode() for name, (_, expires) in held.items() if not expires}
        assert for_ever <= {f"{self.prefix}:jobs", f"{self.prefix}:open"}

    @rule(seconds=st.sampled_from((0.001, 1.0, 60.0, HOUR, -HOUR, KEEP)))
    def the_clock_goes_on_or_jumps(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: len(self.models) < MOST_JOBS)
    @rule(
        target=jobs,
        client=st.sampled_from(("a", "b")),
        count=st.integers(1, 3),
        key=st.sampled_from((None, None, None, "k", "l")),
        body=st.sampled_from(("x", "x", "y")),
        url=st.sampled_from((None, "https://example.com/")),
    )
    def a_caller_asks_for_a_job(
        self, client: str, count: int, key: str | None, body: str, url: str | None
    ) -> Any:
        self.now += 0.001  # jobs are listed by their time
        files = tuple(range(10_000, 10_000 + count))
        new = new_job(files, client=client, idempotency_key=key, fingerprint=body, callback=url)
        known = self.keys.get((client, key or ""))
        full = sum(m.client == client and m.state not in ENDED for m in self.models.values()) >= MOST_OPEN
        try:
            created = self.do(self.records.create(new))
        except KeyReused:
            assert known is not None
            assert known[1] != body
            return multiple()
        except TooManyJobs:
            assert known is None
            assert full
            return multiple()
        if known is not None:
            assert (created.job.id, created.fresh, body) == (known[0], False, known[1])
            return multiple()
        assert created.fresh
        assert not full
        callback = Callback(url) if url else None
        self.latest = Model(new.id, client, {f: File(f) for f in files}, self.now, callback)
        self.models[new.id] = self.latest
        if key:
            self.keys[client, key] = new.id, body
        return new.id

    @rule(job=jobs)
    def a_worker_claims(self, job: str) -> None:
        model = self.latest = self.models[job]
        claim = self.do(self.records.claim(job, "w"))
        assert (claim is not None) == model.claim(self.now)
        if claim is not None:
            assert (claim.run, claim.deaths) == (model.run, model.deaths)

    @rule(
        job=jobs,
        other=RUNS,
        file=st.sampled_from((0, 0, 0, 1, 2)),
        state=st.sampled_from((*[FileState.RUNNING] * 4, *FileState)),
        percent=st.integers(0, 100),
        attempts=st.integers(1, 3),
    )
    def a_worker_updates(
        self, job: str, other: int, file: int, state: FileState, percent: int, attempts: int
    ) -> None:
        model = self.latest = self.models[job]
        error = "It broke." if state is FileState.FAILED else None
        told = File(10_000 + file, state, percent, 1000, attempts, error)
        run = model.run + other
        try:
            self.do(self.records.update(job, run, told))
        except ValueError:
            assert state is FileState.QUEUED or file >= len(model.files)
        except Superseded:
            assert not model.may_write(run)
        else:
            assert model.may_write(run)
            model.update(told)

    @rule(job=jobs)
    def a_worker_completes_every_file(self, job: str) -> None:
        model = self.latest = self.models[job]
        for file in list(model.files) if model.state is JobState.RUNNING else []:
            told = File(file, FileState.COMPLETED, 100, 1000, 1)
            self.do(self.records.update(job, model.run, told))
            model.update(told)

    @rule(job=jobs, other=RUNS, state=st.sampled_from((JobState.COMPLETED, JobState.FAILED)))
    def a_worker_finishes(self, job: str, other: int, state: JobState) -> None:
        model = self.latest = self.models[job]
        error = "It broke." if state is JobState.FAILED else None
        try:
            self.do(self.records.finish(job, model.run + other, state, error))
        except Superseded:
            assert not model.may_write(model.run + other)
        except ValueError:
            assert state is JobState.COMPLETED
            assert any(file.state not in DONE for file in model.files.values())
        else:
            assert model.may_write(model.run + other)
            model.end(state, error, self.now)

    @rule(job=jobs, other=RUNS)
    def a_worker_is_alive(self, job: str, other: int) -> None:
        model = self.latest = self.models[job]
        try:
            self.do(self.records.renew(job, model.run + other))
        except Superseded:
            assert not model.may_write(model.run + other)
        else:
            assert model.may_write(model.run + other)

    @rule(job=jobs, other=RUNS)
    def a_worker_releases(self, job: str, other: int) -> None:
        model = self.latest = self.models[job]
        self.do(self.records.release(job, model.run + other))
        if model.may_write(model.run + other):
            model.held = False

    @rule(job=jobs)
    def a_caller_cancels(self, job: str) -> None:
        model = self.latest = self.models[job]
        self.do(self.records.cancel(job))
        if model.state not in ENDED:
            model.end(JobState.CANCELLED, None, self.now)

    @rule(job=jobs)
    def the_operator_revives(self, job: str) -> None:
        model = self.latest = self.models[job]
        self.do(self.records.revive(job))
        model.revive()

    @rule(job=jobs)
    def the_operator_replays(self, job: str) -> None:
        model = self.latest = self.models[job]
        self.do(self.records.owe(job))
        if model.callback is not None and model.state in ENDED:
            model.callback = Callback(model.callback.url)

    @rule(target=attempts, job=jobs)
    def an_attempt_at_the_callback_begins(self, job: str) -> Any:
        found = self.do(self.records.view(job))
        assert found is not None
        if not found.owes or found.callback is None:
            return multiple()
        return Attempt(job, self.models[job].life, found.last_event, found.callback.attempts + 1)

    @rule(attempt=attempts, outcome=st.sampled_from(("delivered", "disabled", "given_up")))
    def an_attempt_is_the_last(self, attempt: Attempt, outcome: str) -> None:
        model = self.latest = self.models[attempt.job]
        heard = self.do(self.records.settle(attempt.job, attempt.end, outcome, attempt.number))
        assert heard == model.hears_of(attempt)
        if heard and model.callback is not None:
            model.callback = replace(model.callback, state=outcome, attempts=attempt.number)

    @rule(attempt=attempts)
    def an_attempt_fails(self, attempt: Attempt) -> None:
        model = self.latest = self.models[attempt.job]
        heard = self.do(self.records.attempted(attempt.job, attempt.end, attempt.number, "No answer."))
        assert heard == (model.hears_of(attempt) and model.owes)
        if heard and model.callback is not None:
            model.callback = replace(model.callback, attempts=attempt.number, detail="No answer.")

    @invariant()
    def the_job_of_this_step_is_as_it_ought_to_be(self) -> None:
        if self.latest is not None:
            self.compare(self.latest)

    def compare(self, model: Model) -> None:
        job = self.do(self.records.view(model.id))
        assert job is not None
        late = model.state is JobState.COMPLETED and self.now >= (model.ended or math.inf) + KEEP
        assert job.state is (JobState.EXPIRED if late else model.state)
        assert job.files == tuple(model.files.values())
        assert (job.created, job.started, job.ended) == (model.created, model.started, model.ended)
        assert (job.run, job.error, job.callback) == (model.run, model.error, model.callback)
        assert job.expires == (None if model.ended is None else model.ended + KEEP)
        self.compare_events(model, job)
        listed = self.do(self.records.jobs_of(model.client, ALL, 100, None)).jobs
        assert [one.id for one in listed] == self.newest(model.client)
        [one] = (one for one in listed if one.id == model.id)
        assert one == Summary(**{each.name: getattr(job, each.name) for each in fields(Summary)})
        owing = self.do(self.records.stale(self.now + 1, 100))
        assert set(owing) == {each.id for each in self.models.values() if each.owes}

    def compare_events(self, model: Model, job: Job) -> None:
        """Every change was told, once, in order, and the latest event says how far the job is."""
        page = self.do(self.records.events(model.id))
        assert page.complete
        assert [event.kind for event in page.events] == model.kinds
        numbers = [tuple(map(int, event.id.split("-"))) for event in page.events]
        assert all(one < other for one, other in itertools.pairwise(numbers))
        assert job.last_event == page.events[-1].id
        last = orjson.loads(page.events[-1].data)
        counts = (last["completedFiles"], last["failedFiles"], last["totalFileIds"])
        assert counts == (job.completed, job.failed, job.total)
        assert last["progress"] == job.percent if model.told else last["progress"] >= job.percent

    def newest(self, client: str) -> list[str]:
        """A client's jobs as they ought to be listed."""
        jobs = [(model.created, model.id) for model in self.models.values() if model.client == client]
        return [job for _, job in sorted(jobs, reverse=True)]


@pytest.mark.fault(93)
def test_whatever_happens_records_keep_their_promises(model_store: Valkey) -> None:
    class Here(Histories):
        store = model_store

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
        ),
    )
