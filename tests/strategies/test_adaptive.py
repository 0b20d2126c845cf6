"""What the adaptive strategy does and when, to the instant, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from strategies import (
    AdaptiveOptions,
    AdaptiveStrategy,
    Answered,
    Attempt,
    Budget,
    Deadline,
    Fetch,
    Outcome,
    Reaper,
    Rejected,
    Request,
    Result,
    Target,
    Verdict,
)
from strategies.testing import (
    Make,
    Moment,
    ScriptedFetch,
    Step,
    answers,
    fails,
    hangs,
    request_for,
    run_virtual,
    timeline,
)
from upstream.spare import spare


def adaptive(known: tuple[float, ...] = (), **options: float) -> Make:
    """The strategy, which has seen these latencies, each a hundred times."""

    def make(fetch: Fetch, reaper: Reaper) -> AdaptiveStrategy:
        strategy = AdaptiveStrategy(fetch, reaper, AdaptiveOptions(**options))  # type: ignore[arg-type]
        for seconds in known * 100:
            strategy.upstreams["upstream"].latency.observe(seconds, finished=True)
        return strategy

    return make


def times(told: list[Moment]) -> list[tuple[float, str]]:
    """The timeline, rounded to the centisecond: a bucket of the model is 4 % wide."""
    return [(round(moment, 2), what) for moment, what in told]


KNOWN = tuple(0.1 + number / 1000 for number in range(100))
"""100 to 199 ms: the default quantile is 191 ms, the median 150."""


class TestWhen:
    def test_while_it_knows_nothing_it_waits_for_the_fallback(self) -> None:
        """300 ms."""
        assert timeline(adaptive(), hangs(), answers(0.1), timeout=2) == [
            (0.0, "start 0"),
            (0.3, "start 1"),
            (0.4, "1 wins"),
        ]

    def test_then_for_the_quantile(self) -> None:
        """After 191 ms of silence one more, and not two."""
        assert times(timeline(adaptive(KNOWN), hangs(), answers(0.1), timeout=2)) == [
            (0.0, "start 0"),
            (0.19, "start 1"),
            (0.29, "1 wins"),
        ]

    def test_a_second_hedge_waits_five_times_as_long(self) -> None:
        """And there is no third."""
        assert times(timeline(adaptive(KNOWN), hangs(), timeout=9, targets=5)) == [
            (0.0, "start 0"),
            (0.19, "start 1"),
            (1.14, "start 2"),
            (9.0, "gives up"),
        ]

    def test_with_little_time_it_fires_earlier(self) -> None:
        """At the last moment at which a hedge has an even chance: 250 ms less the median."""
        told = times(timeline(adaptive(KNOWN), hangs(), answers(0.12), timeout=0.25))
        assert told == [(0.0, "start 0"), (0.1, "start 1"), (0.22, "1 wins")]

    def test_a_hedge_that_cannot_finish_is_not_fired(self) -> None:
        """Nothing answers within 90 ms."""
        assert timeline(adaptive(KNOWN), hangs(), timeout=0.09) == [(0.0, "start 0"), (0.09, "gives up")]

    def test_nor_after_a_failure(self) -> None:
        """The 50 ms that are left would not do."""
        told = times(timeline(adaptive(KNOWN), fails(0.2), answers(0.1), timeout=0.25, targets=1))
        assert told == [(0.0, "start 0"), (0.2, "0 fails"), (0.2, "gives up")]
        told = times(timeline(adaptive(KNOWN), fails(0.18), answers(0.1), timeout=0.25))
        assert told == [(0.0, "start 0"), (0.1, "start 1"), (0.18, "0 fails"), (0.2, "1 wins")]

    def test_the_first_attempt_may_win_after_the_hedge(self) -> None:
        """The hedge does not cancel it."""
        assert times(timeline(adaptive(KNOWN), answers(0.25), hangs(), timeout=2))[-1] == (0.25, "0 wins")

    def test_a_delay_is_never_below_the_floor(self) -> None:
        """However fast the upstream is."""
        told = timeline(adaptive((0.001,), floor=0.05), hangs(), answers(0.001), timeout=2)
        assert told[1] == (0.05, "start 1")


class TestFailures:
    def test_a_failure_fires_the_next_at_once(self) -> None:
        """One at a time, and the last failure ends it."""
        script = (fails(0.05), fails(0.06), fails(0.07))
        assert timeline(adaptive(), *script, timeout=2) == [
            (0.0, "start 0"),
            (0.05, "0 fails"),
            (0.05, "start 1"),
            (0.11, "1 fails"),
            (0.11, "start 2"),
            (0.18, "2 fails"),
            (0.18, "gives up"),
        ]

    def test_a_failed_hedge_leaves_the_first_attempt_running(self) -> None:
        """And is followed by another one."""
        script = (answers(0.9), fails(0.01), fails(0.01))
        assert timeline(adaptive(), *script, timeout=2)[-1] == (0.9, "0 wins")

    def test_failures_are_no_latencies(self) -> None:
        """A thousand fast failures do not make the upstream fast."""

        async def story() -> None:
            strategy = adaptive(KNOWN)(ScriptedFetch(fails(0.001)), Reaper())
            assert isinstance(strategy, AdaptiveStrategy)
            before = strategy.upstreams["upstream"].latency.quantile(0.5)
            for _ in range(1000):
                now = asyncio.get_running_loop().time()
                await strategy.execute(request_for(3), Deadline.after(1.0, now=now))
            assert strategy.upstreams["upstream"].latency.quantile(0.5) == before

        run_virtual(story())


class TestLearning:
    async def learnt(self, script: tuple[Step, ...], requests: int, quantile: float) -> float | None:
        """The quantile after so many requests like that."""
        strategy = AdaptiveStrategy(ScriptedFetch(*script), Reaper(grace=0), AdaptiveOptions())
        loop = asyncio.get_running_loop()
        for _ in range(requests):
            await strategy.execute(request_for(1), Deadline.after(0.5, now=loop.time()))
        return strategy.upstreams["upstream"].latency.quantile(quantile)

    def test_it_learns_from_successes(self) -> None:
        """All took 100 ms."""
        assert run_virtual(self.learnt((answers(0.1),), 100, 0.911)) == pytest.approx(0.1, rel=0.05)

    def test_silence_until_the_deadline_counts_as_at_least_this_long(self) -> None:
        """One in two hangs, so the median of those that do not is only the 0.25 quantile of all."""
        script = (hangs(), answers(0.1)) * 100

        async def story() -> float:
            strategy = AdaptiveStrategy(ScriptedFetch(*script), Reaper(grace=0), AdaptiveOptions())
            loop = asyncio.get_running_loop()
            for _ in script:
                await strategy.execute(request_for(1), Deadline.after(0.5, now=loop.time()))
            return strategy.upstreams["upstream"].latency.chance(10.0)

        assert run_virtual(story()) == pytest.approx(0.5, abs=0.05)

    def test_a_caller_who_leaves_has_waited_too(self) -> None:
        """What was cut off counts as silence; otherwise the slow ones would be missing."""

        async def story() -> None:
            strategy = adaptive((0.1,))(ScriptedFetch(hangs()), Reaper(grace=0))
            assert isinstance(strategy, AdaptiveStrategy)
            latency = strategy.upstreams["upstream"].latency
            assert latency.chance(0.2) == pytest.approx(1.0)
            for _ in range(100):
                task = asyncio.ensure_future(strategy.execute(request_for(1), Deadline.never()))
                await asyncio.sleep(0.2)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
            assert latency.chance(0.2) < 0.6

        run_virtual(story())

    def test_each_upstream_has_its_own(self) -> None:
        """One is fast, one is slow, and neither is taken for the other."""

        async def fetch(attempt: Attempt) -> Outcome:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await asyncio.sleep(0.01 if attempt.target.upstream == "fast" else 0.2)
            return Answered(attempt, began, loop.time(), Verdict.SUCCESS, None)

        async def story() -> None:
            strategy = AdaptiveStrategy(fetch, Reaper(), AdaptiveOptions())
            for name in ("fast", "slow") * 50:
                await strategy.execute(Request("test", (Target(name),)), Deadline.never())
            assert strategy.upstreams["fast"].latency.quantile(0.5) == pytest.approx(0.01, rel=0.05)
            assert strategy.upstreams["slow"].latency.quantile(0.5) == pytest.approx(0.2, rel=0.05)

        run_virtual(story())


Say = Callable[[Attempt], Awaitable[Outcome]]


class TestRestraint:
    """Who says no is not asked again, and the race goes on."""

    def run(self, say: Say, *upstreams: str, timeout: float = 2.0) -> tuple[Result, float]:
        """What comes of a request over *upstreams* that behave as *say* does, and when."""

        async def story() -> tuple[Result, float]:
            strategy = AdaptiveStrategy(say, Reaper(grace=0), AdaptiveOptions())
            request = Request("test", tuple(map(Target, upstreams)))
            result = await strategy.execute(request, Deadline.after(timeout, now=0.0))
            return result, asyncio.get_running_loop().time()

        return run_virtual(story())

    def test_a_refused_hedge_does_not_end_the_race(self) -> None:
        """The first attempt is waited for, and nobody asks again and again."""

        async def story() -> None:
            fetch, budget = ScriptedFetch(answers(0.9)), Budget(ratio=0, burst=0)
            loop = asyncio.get_running_loop()
            strategy = AdaptiveStrategy(
                spare(fetch, budget, lambda: True, loop.time), Reaper(), AdaptiveOptions()
            )
            result = await strategy.execute(request_for(3), Deadline.after(2.0, now=0.0))
            assert [outcome.reason for outcome in result.outcomes] == ["success", "over_budget"]
            assert loop.time() == pytest.approx(0.9)

        run_virtual(story())

    def test_after_a_failure_and_a_refusal_it_gives_up_at_once(self) -> None:
        """Nothing runs, so nobody waits for the deadline."""

        async def story() -> None:
            fetch, budget = ScriptedFetch(fails(0.1)), Budget(ratio=0, burst=0)
            loop = asyncio.get_running_loop()
            strategy = AdaptiveStrategy(
                spare(fetch, budget, lambda: True, loop.time), Reaper(), AdaptiveOptions()
            )
            result = await strategy.execute(request_for(3), Deadline.after(2.0, now=0.0))
            assert [outcome.reason for outcome in result.outcomes] == ["scripted", "over_budget"]
            assert not result.expired
            assert loop.time() == pytest.approx(0.1)

        run_virtual(story())

    @pytest.mark.fault(60)
    @pytest.mark.parametrize("refused", [True, False])
    def test_an_upstream_that_asks_for_a_pause_gets_one(self, refused: bool) -> None:
        """By a refusal of ours or by an answer of its own; another upstream is asked at once."""

        async def say(attempt: Attempt) -> Outcome:
            now = asyncio.get_running_loop().time()
            if attempt.target.upstream == "b":
                return Answered(attempt, now, now, Verdict.SUCCESS, None)
            if refused:
                return Rejected(attempt, now, now, "circuit_open", "", 10.0)
            return Answered(attempt, now, now, Verdict.FAILURE, None, "http_error", "status 503", 10.0)

        result, end = self.run(say, "a", "a", "b")
        assert [outcome.attempt.target.upstream for outcome in result.outcomes] == ["a", "b"]
        assert result.verdict is Verdict.SUCCESS
        assert end == 0
        result, end = self.run(say, "a", "a", "a")
        assert len(result.outcomes) == 1
        assert end == 0

    def test_a_refused_hedge_is_none_of_the_two(self) -> None:
        """Another upstream is asked in its place, without waiting again."""

        async def say(attempt: Attempt) -> Outcome:
            now = asyncio.get_running_loop().time()
            if attempt.target.upstream == "b":
                return Rejected(attempt, now, now, "over_budget")
            await asyncio.sleep(0.1 if attempt.number else 10.0)
            return Answered(attempt, now, now + 0.1, Verdict.SUCCESS, None)

        result, end = self.run(say, "a", "b", "c")
        assert [outcome.reason for outcome in result.outcomes] == ["cancelled", "over_budget", "success"]
        assert end == pytest.approx(0.4)

    def test_when_nobody_is_answered_only_a_few_hedge(self) -> None:
        """Thirty requests over a silent upstream: the first three, and not ten."""
        assert self.hedges_of(thirty_silent=True) == 3

    def test_who_was_overtaken_hedges(self) -> None:
        """Thirty are silent, but others that came later were answered: it is bad luck, and all hedge."""
        assert self.hedges_of(thirty_silent=False) == 30

    def hedges_of(self, *, thirty_silent: bool) -> int:
        """Hedges of thirty requests that get no answer; if not *thirty_silent*, others do, in between."""

        async def story() -> int:
            hedges = 0

            async def say(attempt: Attempt) -> Outcome:
                nonlocal hedges
                hedges += attempt.hedge
                began = asyncio.get_running_loop().time()
                await asyncio.sleep(0.01 if attempt.request.route == "lucky" else 100)
                return Answered(attempt, began, began + 0.01, Verdict.SUCCESS, None)

            strategy = AdaptiveStrategy(say, Reaper(grace=0), AdaptiveOptions(hedges=1))
            lucky, silent = Request("lucky", (Target("a"),)), Request("silent", (Target("a"),) * 2)
            asked = []
            for _ in range(30):
                now = asyncio.get_running_loop().time()
                asked.append(asyncio.ensure_future(strategy.execute(silent, Deadline(now + 1.0))))
                await asyncio.sleep(0.001)
                if not thirty_silent:
                    await strategy.execute(lucky, Deadline.never())
            await asyncio.gather(*asked)
            assert strategy.upstreams["a"].overdue == 0
            return hedges

        return run_virtual(story())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"quantile": 1.0}, "quantile must be between 0 and 1, not 1.0"),
        ({"floor": 0.5}, "floor must be from 0 to fallback, in seconds, not 0.5 and 0.3"),
        ({"hedges": -1}, "hedges must be 0 or more, not -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], complaint: str) -> None:
    """The message names the option and its range."""
    with pytest.raises(ValueError, match=complaint):
        AdaptiveOptions(**options)  # type: ignore[arg-type]
