"""The admission and retry layers, on virtual time over a scripted fetch."""

from __future__ import annotations

import asyncio
import random

import pytest

from strategies import Attempt, Budget, Deadline, Failed, Outcome, Rejected, Request, Target, Verdict
from strategies.testing import ScriptedFetch, answers, fails, hangs, run_virtual
from upstream.admission import admission
from upstream.breaker import BreakerOptions, CircuitBreaker, State
from upstream.call import Call
from upstream.retry import retry
from upstream.spare import spare


def attempt(call: Call | None = None, timeout: float = 100.0) -> Attempt:
    """An attempt at anything."""
    target = Target("any", call)
    return Attempt(Request("test", (target,)), target, 0, Deadline(timeout))


def clock() -> float:
    """The virtual clock."""
    return asyncio.get_running_loop().time()


class TestAdmission:
    def guarded(
        self, *script: object, fair_time: float = 1.0
    ) -> tuple[ScriptedFetch, CircuitBreaker, object]:
        """A scripted fetch behind a circuit."""
        fetch = ScriptedFetch(*script)  # type: ignore[arg-type]
        circuit = CircuitBreaker(BreakerOptions(jitter=0), random.Random(0))
        return fetch, circuit, admission(fetch, lambda _: circuit, clock, fair_time)

    def test_three_failures_and_no_call_goes_out(self) -> None:
        """The refusal is an outcome, with the seconds to wait."""

        async def story() -> None:
            fetch, _, guarded = self.guarded(fails(0.1))
            for _ in range(3):
                assert isinstance(await guarded(attempt()), Failed)  # type: ignore[operator]
            outcome = await guarded(attempt())  # type: ignore[operator]
            assert isinstance(outcome, Rejected)
            assert (outcome.reason, outcome.retry_after, outcome.verdict) == (
                "circuit_open",
                10.0,
                Verdict.IGNORED,
            )
            assert len([what for _, what in fetch.log if what.startswith("start")]) == 3

        run_virtual(story())

    @pytest.mark.fault(69)
    @pytest.mark.parametrize(
        ("timeout", "cancel_at", "state"),
        [
            (5.0, 5.0, State.OPEN),  # silent for all of a fair time, cut at the deadline
            (0.5, 0.5, State.CLOSED),  # an impatient caller
            (5.0, 2.0, State.CLOSED),  # the caller went away
        ],
    )
    def test_what_a_cut_call_says(self, timeout: float, cancel_at: float, state: State) -> None:
        """Silence counts when the upstream had a fair time and the deadline ended it, and only then."""

        async def story() -> None:
            _, circuit, guarded = self.guarded(hangs())
            calls = [asyncio.ensure_future(guarded(attempt(timeout=timeout))) for _ in range(3)]  # type: ignore[operator]
            await asyncio.sleep(cancel_at)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert all(call.cancelled() for call in calls)
            assert circuit.state(clock()) is state

        run_virtual(story())

    @pytest.mark.fault(70)
    def test_a_cancelled_probe_gives_its_slot_back(self) -> None:
        """In whatever phase the caller leaves."""

        async def story() -> None:
            _, circuit, guarded = self.guarded(fails(0), fails(0), fails(0), hangs(), answers(0.1))
            for _ in range(3):
                await guarded(attempt())  # type: ignore[operator]
            await asyncio.sleep(10)
            probe = asyncio.ensure_future(guarded(attempt()))  # type: ignore[operator]
            await asyncio.sleep(0.5)
            assert isinstance(await guarded(attempt()), Rejected)  # type: ignore[operator]
            probe.cancel()
            await asyncio.wait([probe])
            await guarded(attempt())  # type: ignore[operator]
            assert circuit.state(clock()) is State.CLOSED

        run_virtual(story())


class TestRetry:
    async def tried(self, reason: str, call: Call | None, budget: Budget, timeout: float = 100.0) -> int:
        """How often a call is made that fails with *reason*."""
        calls = 0

        async def fetch(given: Attempt) -> Outcome:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0.1)
            return Failed(given, 0.0, clock(), reason)

        tried = retry(fetch, budget, clock, lambda _: None)
        await spare(tried, budget, lambda: True, clock)(attempt(call, timeout))
        return calls

    @pytest.mark.fault(41)
    @pytest.mark.parametrize(
        ("reason", "call", "tries"),
        [
            ("reset", None, 2),
            ("connect_error", Call("GET", ("x",)), 2),
            ("dns_error", Call("HEAD", ("x",)), 2),
            ("reset", Call("POST", ("x",), b"{}"), 1),
            ("too_large", None, 1),
            ("tls_error", None, 1),
            ("protocol_error", None, 1),
        ],
    )
    def test_only_network_failures_of_safe_methods_are_tried_again(
        self, reason: str, call: Call | None, tries: int
    ) -> None:
        """Once, and a POST never."""
        assert run_virtual(self.tried(reason, call, Budget())) == tries

    def test_not_without_time(self) -> None:
        """After the deadline nothing is tried."""
        assert run_virtual(self.tried("reset", None, Budget(), timeout=0.05)) == 1

    def test_not_without_budget(self) -> None:
        """A budget of nothing allows no second try."""
        assert run_virtual(self.tried("reset", None, Budget(ratio=0, burst=0))) == 1

    def test_an_outage_is_not_doubled(self) -> None:
        """A thousand failures cost at most a tenth more, and the burst."""

        async def story() -> int:
            budget = Budget(ratio=0.1, burst=10)
            return sum([await self.tried("reset", None, budget, 1e9) for _ in range(1000)])

        assert run_virtual(story()) == 1000 + 10 + 99
