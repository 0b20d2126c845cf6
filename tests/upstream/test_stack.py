"""Layers around a transport: their order, what each reports, and which upstream an attempt reaches."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from strategies import (
    Answered,
    Attempt,
    Bound,
    Deadline,
    Failed,
    Fetch,
    FirstStrategy,
    NoOptions,
    Outcome,
    Reaper,
    Request,
    Target,
    TimedOut,
    Verdict,
)
from strategies.testing import (
    ScriptedBug,
    ScriptedFetch,
    Step,
    answers,
    crashes,
    fails,
    hangs,
    request_for,
    run_virtual,
)
from tests.upstream.asking import Recorder, attempt_for, body_of, upstreams_over, within
from tests.upstream.conftest import Serve
from tests.upstream.scripted import answer, hang, read, repeat, send
from upstream.bound import bound
from upstream.observe import observe
from upstream.payloads import work
from upstream.spec import UpstreamSpec
from upstream.stack import Layer, compose


def now() -> float:
    """The loop's clock, which is virtual here."""
    return asyncio.get_running_loop().time()


def noting(name: str, log: list[str]) -> Layer:
    """A layer that notes when it is entered and left."""

    def layer(fetch: Fetch) -> Fetch:
        async def noted(attempt: Attempt) -> Outcome:
            log.append(f"into {name}")
            outcome = await fetch(attempt)
            log.append(f"out of {name}")
            return outcome

        return noted

    return layer


class TestCompose:
    def test_the_first_layer_is_outermost(self) -> None:
        """Layers are entered in the order in which they are listed, and left in the opposite one."""
        log: list[str] = []

        async def transport(attempt: Attempt) -> Outcome:
            log.append("transport")
            return Failed(attempt, 0.0, 0.0, "scripted")

        fetch = compose(transport, [noting("outer", log), noting("inner", log)])
        run_virtual(_outcome(fetch))
        assert log == ["into outer", "into inner", "transport", "out of inner", "out of outer"]

    def test_no_layers(self) -> None:
        """Nothing around it leaves the transport itself."""
        transport = ScriptedFetch(answers(1))
        assert compose(transport, []) is transport


async def _outcome(fetch: Fetch, deadline: float = 1e9) -> Outcome:
    return await fetch(attempt_for(deadline=deadline))


class TestObserve:
    @pytest.mark.parametrize(
        ("step", "reason"),
        [(answers(0.25), "success"), (fails(0.25), "scripted")],
        ids=["success", "failure"],
    )
    def test_an_outcome_is_told_by_its_reason(self, step: Step, reason: str) -> None:
        """Number, reason and time of an attempt that ended by itself; its outcome passes through."""
        recorder = Recorder()
        outcome = run_virtual(_outcome(observe(ScriptedFetch(step), recorder, now)))
        assert outcome.reason == reason
        assert recorder.ended == [(0, reason, 0.25)]
        assert [attempt.number for attempt in recorder.started] == [0]

    def test_an_answer_with_a_bad_status(self) -> None:
        """The reason is the outcome's own, whatever it is."""

        async def transport(attempt: Attempt) -> Outcome:
            return Answered(attempt, 0.0, 0.0, Verdict.FAILURE, None, "http_error", "status 500")

        recorder = Recorder()
        run_virtual(_outcome(observe(transport, recorder, now)))
        assert recorder.ended == [(0, "http_error", 0.0)]

    @pytest.mark.parametrize(
        ("cut", "reason"),
        [(1.0, "timeout"), (0.9985, "timeout"), (0.9975, "cancelled"), (0.1, "cancelled")],
        ids=["at the deadline", "by an early timer", "well before it", "long before it"],
    )
    def test_an_attempt_that_was_cut_off(self, cut: float, reason: str) -> None:
        """Cancelled at the deadline of 1 s it ran out of time; cancelled before, it was not needed."""

        async def story() -> None:
            attempt = asyncio.ensure_future(
                _outcome(observe(ScriptedFetch(hangs()), recorder, now), deadline=1.0)
            )
            asyncio.get_running_loop().call_at(cut, attempt.cancel)
            with pytest.raises(asyncio.CancelledError):
                await attempt

        recorder = Recorder()
        run_virtual(story())
        assert recorder.ended == [(0, reason, cut)]

    def test_a_bug(self) -> None:
        """What is no outcome and no cancellation is a bug, told and raised."""
        recorder = Recorder()
        with pytest.raises(ScriptedBug):
            run_virtual(_outcome(observe(ScriptedFetch(crashes(0.5)), recorder, now)))
        assert recorder.ended == [(0, "bug", 0.5)]

    def test_the_losers_of_a_race(self) -> None:
        """Each attempt is told once: the winner as a success, the others as cancelled."""
        recorder = Recorder()

        async def story() -> None:
            reaper = Reaper()
            fetch = observe(ScriptedFetch(hangs(), answers(0.25), hangs()), recorder, now)
            await FirstStrategy(fetch, reaper, NoOptions()).execute(request_for(3), Deadline(1.0))
            await reaper.aclose(within=1)

        run_virtual(story())
        assert sorted(recorder.ended) == [
            (0, "cancelled", 0.25),
            (1, "success", 0.25),
            (2, "cancelled", 0.25),
        ]

    def test_the_losers_of_a_lost_race(self) -> None:
        """At the deadline every attempt that still runs has timed out."""
        recorder = Recorder()

        async def story() -> None:
            reaper = Reaper()
            fetch = observe(ScriptedFetch(hangs(), fails(0.25)), recorder, now)
            await FirstStrategy(fetch, reaper, NoOptions()).execute(request_for(2), Deadline(1.0))
            await reaper.aclose(within=1)

        run_virtual(story())
        assert recorder.ended == [(1, "scripted", 0.25), (0, "timeout", 1.0)]


class TestBound:
    def test_time_is_up(self) -> None:
        """After the upstream's own limit the attempt has timed out, and the limit is named as its own."""

        async def story() -> tuple[Outcome, list[tuple[float, str]]]:
            inner = ScriptedFetch(hangs())
            return await _outcome(bound(inner, 0.2)), inner.log

        outcome, log = run_virtual(story())
        assert isinstance(outcome, TimedOut)
        assert outcome.bound is Bound.TARGET
        assert outcome.verdict is Verdict.FAILURE
        assert (outcome.reason, outcome.started) == ("timeout", 0.0)
        assert outcome.ended == pytest.approx(0.2)
        assert log == [(0.0, "start 0"), (0.2, "0 cancelled")]

    @pytest.mark.parametrize("step", [answers(0.1), fails(0.1)], ids=["success", "failure"])
    def test_in_time(self, step: Step) -> None:
        """An outcome within the limit passes through as it is."""
        outcome = run_virtual(_outcome(bound(ScriptedFetch(step), 0.2)))
        assert not isinstance(outcome, TimedOut)
        assert outcome.ended == pytest.approx(0.1)

    def test_a_cancellation_from_outside_is_none_of_its_business(self) -> None:
        """It passes through, and is not taken for the limit."""

        async def story() -> None:
            attempt = asyncio.ensure_future(_outcome(bound(ScriptedFetch(hangs()), 0.2)))
            asyncio.get_running_loop().call_at(0.1, attempt.cancel)
            with pytest.raises(asyncio.CancelledError):
                await attempt
            assert now() == pytest.approx(0.1)

        run_virtual(story())

    def test_a_bug_is_none_of_its_business(self) -> None:
        """It is raised, not made into a timeout."""
        with pytest.raises(ScriptedBug):
            run_virtual(_outcome(bound(ScriptedFetch(crashes(0.1)), 0.2)))


class TestUpstreams:
    async def test_an_attempt_goes_to_the_upstream_that_it_names(
        self, session: aiohttp.ClientSession, serve: Serve, recorder: Recorder
    ) -> None:
        """Two upstreams behind one fetch: each answers for itself, and every attempt is observed."""
        servers = [await serve([repeat(read(), send(answer(b'{"time": %d}' % n)))]) for n in (1, 2)]
        specs = (
            UpstreamSpec("one", servers[0].url, accept=work),
            UpstreamSpec("two", servers[1].url, accept=work),
        )
        fetch = upstreams_over(session, recorder, *specs, clock=now).fetch
        for name, body in (("two", b'{"time": 2}'), ("one", b'{"time": 1}'), ("two", b'{"time": 2}')):
            assert body_of(await within(fetch(attempt_for(name)))) == body
        assert [len(server.requests) for server in servers] == [1, 2]
        assert [attempt.target.upstream for attempt in recorder.started] == ["two", "one", "two"]
        assert [reason for _, reason, _ in recorder.ended] == ["success"] * 3
        assert recorder.connections == [("two", "opened"), ("one", "opened"), ("two", "reused")]

    async def test_the_limit_of_one_upstream_is_not_that_of_another(
        self, session: aiohttp.ClientSession, serve: Serve, recorder: Recorder
    ) -> None:
        """The upstream with a limit times out by it, is observed so, and is hung up on."""
        silent, plain = await serve([read(), hang()]), await serve([repeat(read(), send(answer()))])
        specs = (
            UpstreamSpec("silent", silent.url, accept=work, timeout=0.01),
            UpstreamSpec("plain", plain.url, accept=work),
        )
        fetch = upstreams_over(session, recorder, *specs, clock=now).fetch
        outcomes = await within(asyncio.gather(fetch(attempt_for("silent")), fetch(attempt_for("plain"))))
        assert isinstance(outcomes[0], TimedOut)
        assert outcomes[0].bound is Bound.TARGET
        body_of(outcomes[1])
        assert sorted(reason for _, reason, _ in recorder.ended) == ["success", "timeout"]
        await within(silent.gone.wait())

    async def test_an_upstream_that_does_not_exist(
        self, session: aiohttp.ClientSession, recorder: Recorder
    ) -> None:
        """A name that nobody configured is a bug of ours, and is heard."""
        fetch = upstreams_over(session, recorder, clock=now).fetch
        request = Request("test", (Target("nobody"),))
        with pytest.raises(KeyError, match="nobody"):
            await fetch(Attempt(request, request.targets[0], 0, Deadline.never()))
