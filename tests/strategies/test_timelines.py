"""What each strategy does and when, to the instant, on virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from strategies import (
    AllOptions,
    AllStrategy,
    Attempt,
    CollectStrategy,
    Deadline,
    FirstStrategy,
    HedgedOptions,
    HedgedStrategy,
    NoOptions,
    Outcome,
    Reaper,
    Rejected,
    Verdict,
)
from strategies.testing import (
    Make,
    ScriptedBug,
    ScriptedFetch,
    answers,
    crashes,
    fails,
    hangs,
    request_for,
    run_virtual,
    timeline,
)


def all_of(**options: Any) -> Make:
    return lambda fetch, reaper: AllStrategy(fetch, reaper, AllOptions(**options))


def first(fetch: ScriptedFetch, reaper: Reaper) -> FirstStrategy:
    return FirstStrategy(fetch, reaper, NoOptions())


def collect(fetch: ScriptedFetch, reaper: Reaper) -> CollectStrategy:
    return CollectStrategy(fetch, reaper, NoOptions())


def hedged(fetch: ScriptedFetch, reaper: Reaper) -> HedgedStrategy:
    return HedgedStrategy(fetch, reaper, HedgedOptions())


class TestHedged:
    @pytest.mark.fault(66)
    def test_a_success_within_the_delay_is_alone(self) -> None:
        """An answer before 300 ms ends it and nothing else is fired."""
        assert timeline(hedged, answers(0.299), timeout=1) == [(0.0, "start 0"), (0.299, "0 wins")]

    def test_silence_fires_two_more_together(self) -> None:
        """After 300 ms of silence both others start, and the first success of the three wins."""
        script = (hangs(), answers(0.12), answers(0.5))
        assert timeline(hedged, *script, timeout=1) == [
            (0.0, "start 0"),
            (0.3, "start 1"),
            (0.3, "start 2"),
            (0.42, "1 wins"),
        ]

    @pytest.mark.fault(66)
    def test_a_failure_fires_two_more_at_once(self) -> None:
        """A failed first attempt does not make the others wait for the 300 ms."""
        script = (fails(0.05), answers(0.2), answers(0.1))
        assert timeline(hedged, *script, timeout=1) == [
            (0.0, "start 0"),
            (0.05, "0 fails"),
            (0.05, "start 1"),
            (0.05, "start 2"),
            (0.15, "2 wins"),
        ]

    def test_the_first_attempt_may_win_after_the_hedge(self) -> None:
        """The hedge does not cancel the first attempt."""
        script = (answers(0.35), answers(0.2), answers(0.2))
        assert timeline(hedged, *script, timeout=1)[-1] == (0.35, "0 wins")

    def test_a_failed_reply_never_beats_a_slower_success(self) -> None:
        """A hedge that fails first does not end the race."""
        script = (answers(0.55), fails(0.01), fails(0.02))
        assert timeline(hedged, *script, timeout=1)[-1] == (0.55, "0 wins")

    def test_all_three_failed_ends_at_once(self) -> None:
        """With nothing left to hope for, it does not sit out the timeout."""
        assert timeline(hedged, fails(0.1), fails(0.1), fails(0.2), timeout=30)[-1] == (0.3, "gives up")

    def test_the_deadline_before_the_delay_fires_nothing(self) -> None:
        """At the deadline no hedge is started."""
        assert timeline(hedged, hangs(), timeout=0.2) == [(0.0, "start 0"), (0.2, "gives up")]

    def test_without_a_delay_it_is_a_race(self) -> None:
        """A delay of 0 fires all of them in the same instant."""

        def eager(fetch: ScriptedFetch, reaper: Reaper) -> HedgedStrategy:
            return HedgedStrategy(fetch, reaper, HedgedOptions(delay=0))

        assert timeline(eager, answers(0.2), timeout=1)[:3] == [
            (0.0, "start 0"),
            (0.0, "start 1"),
            (0.0, "start 2"),
        ]

    def test_a_negative_delay_is_refused(self) -> None:
        """The options check their own range and name it."""
        with pytest.raises(ValueError, match="delay must be 0 seconds or more, not -1"):
            HedgedOptions(delay=-1)


class TestFirst:
    def test_the_fastest_success_wins(self) -> None:
        """All start at once; the first success ends it."""
        assert timeline(first, answers(0.3), answers(0.2), timeout=1, targets=2) == [
            (0.0, "start 0"),
            (0.0, "start 1"),
            (0.2, "1 wins"),
        ]

    @pytest.mark.fault(65)
    def test_a_failure_does_not_win(self) -> None:
        """A fast failure is passed over."""
        assert timeline(first, fails(0.01), answers(0.4), timeout=1, targets=2)[-1] == (0.4, "1 wins")

    def test_it_gives_up_when_all_have_failed(self) -> None:
        """Nobody waits for a timeout that cannot bring anything."""
        assert timeline(first, fails(0.1), fails(0.2), timeout=30, targets=2)[-1] == (0.2, "gives up")


class TestAll:
    def test_it_keeps_all_successes_in_the_order_of_the_targets(self) -> None:
        """The slower first target still comes first."""
        assert timeline(all_of(), answers(0.3), answers(0.1), timeout=1, targets=2)[-1] == (
            0.3,
            "gathers 0 1",
        )

    def test_one_failure_leaves_the_other(self) -> None:
        """One failed and one successful make a list of one."""
        assert timeline(all_of(), fails(0.1), answers(0.2), timeout=1, targets=2)[-1] == (0.2, "gathers 1")

    def test_an_unfinished_attempt_fails_the_whole(self) -> None:
        """A success in hand does not help when the deadline comes before all have finished."""
        assert timeline(all_of(), answers(0.1), hangs(), timeout=0.5, targets=2)[-1] == (0.5, "gives up")

    def test_none_successful_fails(self) -> None:
        """All finished, nothing of use."""
        assert timeline(all_of(), fails(0.1), timeout=1, targets=2)[-1] == (0.1, "gives up")

    def test_concurrency_bounds_what_runs_at_once(self) -> None:
        """With two at once the third starts when one has ended."""
        script = (answers(0.2), answers(0.3), answers(0.1))
        assert timeline(all_of(concurrency=2), *script, timeout=1) == [
            (0.0, "start 0"),
            (0.0, "start 1"),
            (0.2, "start 2"),
            (0.3, "gathers 0 1 2"),
        ]

    def test_what_could_not_start_in_time_fails_the_whole(self) -> None:
        """A target still waiting for its turn at the deadline counts as unfinished."""
        assert timeline(all_of(concurrency=1), answers(0.3), timeout=0.5)[-1] == (0.5, "gives up")

    def test_fail_fast_ends_at_the_first_failure(self) -> None:
        """The rest is cancelled and nothing more is started."""
        script = (answers(0.9), fails(0.1), answers(0.9))
        assert timeline(all_of(fail_fast=True), *script, timeout=1)[-1] == (0.1, "gives up")

    def test_a_refusal_does_not_give_up_the_call_that_finds_out(self) -> None:
        """With a half-open circuit the first call is the probe: it ends, though the request has failed."""

        async def story() -> None:
            fetch, reaper = ScriptedFetch(answers(0.5)), Reaper()

            async def one_at_a_time(attempt: Attempt) -> Outcome:
                if attempt.number:
                    return Rejected(attempt, 0.0, 0.0, "circuit_open")
                return await fetch(attempt)

            strategy = AllStrategy(one_at_a_time, reaper, AllOptions(fail_fast=True))
            result = await strategy.execute(request_for(3), Deadline.after(1, now=0.0))
            assert result.verdict is Verdict.FAILURE
            assert fetch.log == [(0.0, "start 0"), (0.5, "0 answers")]

        run_virtual(story())

    def test_a_negative_concurrency_is_refused(self) -> None:
        """The options check their own range and name it."""
        with pytest.raises(ValueError, match="concurrency must be 0 or more, not -2"):
            AllOptions(concurrency=-2)


class TestCollect:
    def test_what_succeeded_by_the_deadline_is_kept(self) -> None:
        """The slow one is left out."""
        assert timeline(collect, answers(0.1), hangs(), timeout=0.5, targets=2)[-1] == (0.5, "gathers 0")

    def test_nothing_in_time_is_an_empty_list(self) -> None:
        """It is met even with nothing."""
        assert timeline(collect, hangs(), timeout=0.5, targets=2)[-1] == (0.5, "gathers")

    def test_it_ends_when_all_have_ended(self) -> None:
        """It does not sit out the timeout."""
        assert timeline(collect, fails(0.1), answers(0.2), timeout=30, targets=2)[-1] == (0.2, "gathers 1")


@pytest.mark.parametrize("make", [all_of(), first, collect, hedged])
def test_a_bug_in_an_attempt_surfaces(make: Make) -> None:
    """An exception is never taken for an upstream's fault."""
    with pytest.raises(ScriptedBug):
        timeline(make, crashes(0.1), timeout=1)


@pytest.mark.parametrize("make", [all_of(), first, collect, hedged])
def test_a_loser_that_needs_a_second_does_not_delay_the_answer(make: Make) -> None:
    """Answer first, tidy up after: not a millisecond is spent on the clean-up of losers."""
    script = (hangs(cleanup=1.0), answers(0.1), hangs(cleanup=1.0))
    prompt = (hangs(), answers(0.1), hangs())
    assert timeline(make, *script, timeout=0.5) == timeline(make, *prompt, timeout=0.5)


def test_the_result_says_what_each_attempt_did() -> None:
    """Winner, failure and the one that was given up are all in the outcomes, in order, with times."""

    async def story() -> None:
        fetch, reaper = ScriptedFetch(fails(0.1), answers(0.2), hangs()), Reaper()
        result = await hedged(fetch, reaper).execute(request_for(3), Deadline.after(1, now=0.0))
        assert [outcome.reason for outcome in result.outcomes] == ["scripted", "success", "cancelled"]
        assert [outcome.attempt.hedge for outcome in result.outcomes] == [False, True, True]
        assert [outcome.ended for outcome in result.outcomes] == pytest.approx([0.1, 0.3, 0.3])
        assert result.winner is result.outcomes[1]

    run_virtual(story())


def test_at_the_deadline_an_unfinished_attempt_is_reported_as_timed_out() -> None:
    """Whose limit ran out is said: the caller's."""

    async def story() -> None:
        fetch, reaper = ScriptedFetch(hangs()), Reaper()
        result = await first(fetch, reaper).execute(request_for(2), Deadline.after(0.5, now=0.0))
        assert result.verdict is Verdict.FAILURE
        assert result.expired
        assert {outcome.reason for outcome in result.outcomes} == {"timeout"}
        assert {outcome.detail for outcome in result.outcomes} == {"the caller's deadline passed"}

    run_virtual(story())


def test_a_full_reaper_refuses_hedges_but_not_the_first_attempt() -> None:
    """When losers pile up, extra attempts stop; the request itself goes on."""

    async def story() -> None:
        reaper = Reaper(limit=1)
        stuck = ScriptedFetch(answers(0.1, cleanup=5.0), hangs(cleanup=5.0))
        await first(stuck, reaper).execute(request_for(2), Deadline.after(1, now=0.0))
        assert reaper.full
        fetch = ScriptedFetch(fails(0.1), answers(0.1))
        result = await hedged(fetch, reaper).execute(request_for(3), Deadline.after(2, now=0.0))
        assert [outcome.reason for outcome in result.outcomes] == ["scripted", "reaper_full", "reaper_full"]
        await reaper.aclose(within=60)

    run_virtual(story())
