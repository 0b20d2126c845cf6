"""The circuit breaker, move by move. Time is a number; nothing waits."""

from __future__ import annotations

import random

import pytest

from strategies import Verdict
from upstream.admission import Refusal
from upstream.breaker import MOVES, BreakerOptions, CircuitBreaker, CircuitPermit, State

STEADY = BreakerOptions(jitter=0.0)
SUCCESS, FAILURE, IGNORED = Verdict.SUCCESS, Verdict.FAILURE, Verdict.IGNORED


def circuit(options: BreakerOptions = STEADY) -> CircuitBreaker:
    """A circuit without luck in it."""
    return CircuitBreaker(options, random.Random(1))


def admitted(breaker: CircuitBreaker, now: float) -> CircuitPermit:
    """A permit that the test expects to get."""
    permit = breaker.admit(now)
    assert isinstance(permit, CircuitPermit)
    return permit


def refused(breaker: CircuitBreaker, now: float) -> Refusal:
    """A refusal that the test expects to get."""
    refusal = breaker.admit(now)
    assert isinstance(refusal, Refusal)
    return refusal


def call(breaker: CircuitBreaker, verdict: Verdict, now: float) -> None:
    """One call that is over in no time."""
    admitted(breaker, now).settle(verdict, now)


def opened(options: BreakerOptions = STEADY) -> CircuitBreaker:
    """A circuit that opened at 2.0."""
    breaker = circuit(options)
    for now in (0.0, 1.0, 2.0):
        call(breaker, FAILURE, now)
    return breaker


@pytest.mark.fault(61)
def test_it_opens_at_the_third_failure_in_the_window() -> None:
    """Not at the second."""
    breaker = circuit()
    call(breaker, FAILURE, 0.0)
    call(breaker, FAILURE, 1.0)
    assert breaker.state(1.0) is State.CLOSED
    call(breaker, FAILURE, 29.9)
    assert breaker.state(29.9) is State.OPEN


def test_the_window_slides() -> None:
    """A failure 30 s ago does not count any more."""
    breaker = circuit()
    for now in (0.0, 20.0, 30.0):
        call(breaker, FAILURE, now)
    assert breaker.state(30.0) is State.CLOSED
    call(breaker, FAILURE, 49.9)
    assert breaker.state(49.9) is State.OPEN


def test_successes_in_between_do_not_reset_the_count() -> None:
    """Three failures among a hundred successes are three failures."""
    breaker = circuit()
    for n in range(99):
        call(breaker, FAILURE if n % 33 == 0 and n else SUCCESS, n / 10)
    call(breaker, FAILURE, 9.9)
    assert breaker.state(10.0) is State.OPEN


def test_ignored_outcomes_teach_nothing() -> None:
    """A caller who went away, or a 4xx."""
    breaker = circuit()
    for n in range(10):
        call(breaker, IGNORED, float(n))
    assert breaker.state(10.0) is State.CLOSED


def test_while_open_all_are_refused_and_told_how_long() -> None:
    """The seconds left count down."""
    breaker = opened()
    assert refused(breaker, 2.0) == Refusal("circuit_open", 10.0, "open")
    assert refused(breaker, 11.5).retry_after == 0.5
    assert breaker.refusals == 2


@pytest.mark.fault(70)
def test_after_the_open_time_one_probe_goes_out() -> None:
    """And no second one while it is under way."""
    breaker = opened()
    assert breaker.state(12.0) is State.HALF_OPEN
    admitted(breaker, 12.0)
    assert [refused(breaker, 12.0).detail for _ in range(1000)] == ["half_open"] * 1000


@pytest.mark.fault(71)
def test_the_success_of_the_probe_closes_it_and_forgets_the_past() -> None:
    """Two failures after that are not three."""
    breaker = opened()
    call(breaker, SUCCESS, 12.0)
    assert breaker.state(12.0) is State.CLOSED
    call(breaker, FAILURE, 12.1)
    call(breaker, FAILURE, 12.2)
    assert breaker.state(12.2) is State.CLOSED
    call(breaker, FAILURE, 12.3)
    assert breaker.seconds_left(12.3) == pytest.approx(10.0)


@pytest.mark.fault(71)
def test_each_failed_probe_doubles_the_open_time_up_to_the_cap() -> None:
    """10, 20, 40, 60, 60 seconds."""
    breaker, now, times = opened(), 2.0, []
    for _ in range(5):
        times.append(breaker.seconds_left(now))
        now += times[-1]
        call(breaker, FAILURE, now)
    assert times == [10.0, 20.0, 40.0, 60.0, 60.0]


@pytest.mark.fault(71)
@pytest.mark.parametrize("seed", range(50))
def test_jitter_keeps_its_bounds(seed: int) -> None:
    """The first opening is 9 to 11 s, and none is longer than 60."""
    breaker = CircuitBreaker(BreakerOptions(), random.Random(seed))
    for now in (0.0, 1.0, 2.0):
        call(breaker, FAILURE, now)
    assert 9.0 <= breaker.seconds_left(2.0) <= 11.0
    now = 2.0
    for expected in (10.0, 20.0, 40.0, 60.0, 60.0):
        left = breaker.seconds_left(now)
        assert expected * 0.9 <= left <= min(60.0, expected * 1.1) + 1e-6
        now += left + 1e-6  # the sum may fall short of the end by a rounding
        call(breaker, FAILURE, now)


def test_a_late_failure_does_not_extend_the_open_time() -> None:
    """It was admitted while closed; that state is over."""
    breaker = circuit()
    late = admitted(breaker, 0.0)
    for now in (0.0, 1.0, 2.0):
        call(breaker, FAILURE, now)
    late.settle(FAILURE, 11.0)
    assert breaker.state(12.0) is State.HALF_OPEN


def test_a_late_success_does_not_close_it() -> None:
    """Only the probe's word counts."""
    breaker = circuit()
    late = admitted(breaker, 0.0)
    for now in (0.0, 1.0, 2.0):
        call(breaker, FAILURE, now)
    probe = admitted(breaker, 12.0)
    late.settle(SUCCESS, 12.1)
    assert breaker.state(12.1) is State.HALF_OPEN
    probe.settle(FAILURE, 12.2)
    assert breaker.state(12.2) is State.OPEN


def test_a_late_failure_does_not_count_after_closing_again() -> None:
    """A call of the first closed time is no failure of the second."""
    breaker = circuit()
    late = [admitted(breaker, 0.0) for _ in range(3)]
    for now in (0.0, 1.0, 2.0):
        call(breaker, FAILURE, now)
    call(breaker, SUCCESS, 12.0)
    for permit in late:
        permit.settle(FAILURE, 12.5)
    assert breaker.state(12.5) is State.CLOSED


@pytest.mark.fault(70)
def test_a_probe_whose_caller_went_away_gives_its_slot_back() -> None:
    """The next call is the probe."""
    breaker = opened()
    admitted(breaker, 12.0).settle(IGNORED, 12.1)
    call(breaker, SUCCESS, 12.2)
    assert breaker.state(12.2) is State.CLOSED


@pytest.mark.fault(70)
def test_a_probe_that_nobody_settles_loses_its_slot() -> None:
    """And what it says after that counts no more."""
    breaker = opened()
    lost = admitted(breaker, 12.0)
    refused(breaker, 71.9)
    again = admitted(breaker, 72.0)
    lost.settle(FAILURE, 72.1)
    assert breaker.state(72.1) is State.HALF_OPEN
    again.settle(SUCCESS, 72.2)
    assert breaker.state(72.2) is State.CLOSED


def test_only_the_first_telling_counts() -> None:
    """A permit that is settled twice is one failure."""
    breaker = circuit()
    permit = admitted(breaker, 0.0)
    for _ in range(5):
        permit.settle(FAILURE, 0.0)
    assert breaker.state(0.0) is State.CLOSED


def test_listeners_hear_each_change() -> None:
    """From, to, and when; and what was entered is counted."""
    breaker, heard = circuit(), []
    breaker.listen(lambda before, after, now: heard.append((before.value, after.value, now)))
    for now in (0.0, 1.0, 2.0):
        call(breaker, FAILURE, now)
    call(breaker, FAILURE, 12.0)
    call(breaker, SUCCESS, 32.0)
    assert heard == [
        ("closed", "open", 2.0),
        ("open", "half_open", 12.0),
        ("half_open", "open", 12.0),
        ("open", "half_open", 32.0),
        ("half_open", "closed", 32.0),
    ]
    assert breaker.entered == {State.CLOSED: 1, State.OPEN: 2, State.HALF_OPEN: 2}


def test_every_state_can_be_reached_and_left() -> None:
    """The table has no dead end."""
    assert {before for before, _ in MOVES} == set(MOVES.values()) == set(State)


class TestRatio:
    """The rule for busy upstreams: a share of the calls, of at least so many."""

    OPTIONS = BreakerOptions(ratio=0.5, minimum=20, window=10.0, jitter=0.0)

    def test_a_few_failures_among_many_are_nothing(self) -> None:
        """Three failures in a hundred calls do not open it."""
        breaker = circuit(self.OPTIONS)
        for n in range(100):
            call(breaker, FAILURE if n in (10, 20, 30) else SUCCESS, n / 100)
        assert breaker.state(1.0) is State.CLOSED

    def test_half_of_them_are_too_many(self) -> None:
        """At the call that makes the share."""
        breaker = circuit(self.OPTIONS)
        for n in range(19):
            call(breaker, FAILURE if n % 2 else SUCCESS, n / 100)
        assert breaker.state(0.2) is State.CLOSED
        call(breaker, FAILURE, 0.2)
        assert breaker.state(0.2) is State.OPEN

    def test_below_the_minimum_nothing_is_concluded(self) -> None:
        """Nineteen failures of nineteen."""
        breaker = circuit(self.OPTIONS)
        for n in range(19):
            call(breaker, FAILURE, n / 100)
        assert breaker.state(1.0) is State.CLOSED

    def test_old_calls_are_forgotten(self) -> None:
        """The window slides over successes too."""
        breaker = circuit(self.OPTIONS)
        for n in range(1000):
            call(breaker, SUCCESS, n / 1000)
        for n in range(20):
            call(breaker, FAILURE, 11.0 + n / 100)
        assert breaker.state(11.2) is State.OPEN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"failures": 0}, "failures must be from 1 to 16, not 0"),
        ({"ratio": 1.5}, "ratio must be from 0 to 1, not 1.5"),
        ({"cap": 5.0}, "cap must be from 10.0 to 86400, not 5.0"),
        ({"jitter": 0.9}, "jitter must be from 0 to 0.5, not 0.9"),
    ],
)
def test_options_check_their_ranges(change: dict[str, float], message: str) -> None:
    """The message names the option and its range."""
    with pytest.raises(ValueError, match=message):
        BreakerOptions(**change)  # type: ignore[arg-type]
