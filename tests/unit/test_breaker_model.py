"""The breaker against a naive model of the contract, over random histories."""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from strategies import Verdict
from upstream.breaker import BreakerOptions, CircuitBreaker, CircuitPermit, State, Store
from upstream.shared_memory import SharedFile

OPTIONS = BreakerOptions(jitter=0.0, probe_time=60.0)


class Naive:
    """The contract, written down as plainly as can be: who was admitted when is remembered as an epoch."""

    def __init__(self) -> None:
        self.epoch = 0
        self.mode = "closed"
        self.failures: list[float] = []
        self.reopened = 0
        self.opened_at = 0.0
        self.open_for = 0.0
        self.probe_since: float | None = None

    def admit(self, now: float) -> int | None:
        """The epoch of a permit, or None."""
        if self.mode == "closed":
            return self.epoch
        if self.mode == "open" and now >= self.opened_at + self.open_for:
            self.mode, self.probe_since = "half_open", None
            self.epoch += 1
        elif self.mode == "half_open" and now >= (self.probe_since or now) + OPTIONS.probe_time:
            self.probe_since = None
            self.epoch += 1
        if self.mode == "half_open" and self.probe_since is None:
            self.probe_since = now
            return self.epoch
        return None

    def settle(self, epoch: int, verdict: Verdict, now: float) -> None:
        """What a reply of *epoch* changes."""
        if epoch != self.epoch:
            return
        if self.mode == "closed" and verdict is Verdict.FAILURE:
            self.failures = [when for when in self.failures if now - when < OPTIONS.window] + [now]
            if len(self.failures) >= OPTIONS.failures:
                self.open(now)
        elif self.mode == "half_open":
            if verdict is Verdict.SUCCESS:
                self.__init__(self.epoch + 1)  # type: ignore[misc]
            elif verdict is Verdict.FAILURE:
                self.open(now)
            else:
                self.probe_since = None
                self.epoch += 1

    def open(self, now: float) -> None:
        self.mode, self.opened_at, self.failures = "open", now, []
        self.open_for = [10.0, 20.0, 40.0, 60.0][min(self.reopened, 3)]
        self.reopened += 1
        self.epoch += 1

    def state(self, now: float) -> str:
        over = self.mode == "open" and now >= self.opened_at + self.open_for
        return "half_open" if over else self.mode


class Fresh(Naive):
    """`Naive` that can begin again with a later epoch."""

    def __init__(self, epoch: int = 0) -> None:
        super().__init__()
        self.epoch = epoch


class Histories(RuleBasedStateMachine):
    """Calls come, end in any order and way, and time goes by."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.model = Fresh()
        self.breaker = CircuitBreaker(OPTIONS, random.Random(0), self.store())

    def store(self) -> Store | None:
        """Where the breaker keeps its memory."""
        return None

    @rule(seconds=st.sampled_from([0.0, 0.25, 1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 60.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=permits)
    def call(self) -> tuple[CircuitPermit, int] | None:
        got, expected = self.breaker.admit(self.now), self.model.admit(self.now)
        assert isinstance(got, CircuitPermit) == (expected is not None)
        return (got, expected) if isinstance(got, CircuitPermit) and expected is not None else None

    @rule(pair=consumes(permits), verdict=st.sampled_from(Verdict))
    def reply(self, pair: tuple[CircuitPermit, int] | None, verdict: Verdict) -> None:
        if pair is not None:
            pair[0].settle(verdict, self.now)
            self.model.settle(pair[1], verdict, self.now)

    @rule(verdicts=st.lists(st.sampled_from(Verdict), min_size=1, max_size=4))
    def quick_calls(self, verdicts: list[Verdict]) -> None:
        for verdict in verdicts:
            self.reply(self.call(), verdict)

    @invariant()
    def they_agree(self) -> None:
        assert self.breaker.state(self.now).value == self.model.state(self.now)
        if self.breaker.state(self.now) is State.OPEN:
            left = self.model.opened_at + self.model.open_for - self.now
            assert abs(self.breaker.seconds_left(self.now) - left) < 1e-9


class SharedHistories(Histories):
    """The same with the memory that worker processes share."""

    def store(self) -> Store:
        self.file = SharedFile(1)
        return self.file.store(0)

    def teardown(self) -> None:
        self.file.close()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=300, stateful_step_count=60)
TestSharedHistories = SharedHistories.TestCase
TestSharedHistories.settings = settings(max_examples=60, stateful_step_count=60)
