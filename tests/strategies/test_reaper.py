"""Losers have an owner until they have ended."""

from __future__ import annotations

import asyncio
from typing import Any

from strategies import Answered, Attempt, Deadline, Outcome, Reaper, Verdict
from strategies.testing import ScriptedBug, request_for, run_virtual

REQUEST = request_for(1)
ATTEMPT = Attempt(REQUEST, REQUEST.targets[0], 0, Deadline(1.0))


class Closable:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_loser_that_answers_all_the_same_has_its_answer_closed() -> None:
    """A result that came in the very moment of losing holds nothing back."""

    async def story() -> None:
        value, reaper = Closable(), Reaper()
        loser: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        loser.set_result(Answered(ATTEMPT, 0.0, 0.0, Verdict.SUCCESS, value))
        reaper.take(loser, now=0.0)
        await reaper.aclose(within=1)
        await asyncio.sleep(0)
        assert value.closed
        assert reaper.pending == 0

    run_virtual(story())


def test_a_loser_that_will_not_end_is_counted_as_a_zombie() -> None:
    """Patience is 5 s by default; after that it shows in the count."""

    async def stubborn() -> Outcome:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(60)
        raise AssertionError("never reached")

    async def story() -> None:
        reaper = Reaper()
        loser = asyncio.ensure_future(stubborn())
        await asyncio.sleep(0)
        reaper.take(loser, now=0.0)
        assert await reaper.aclose(within=10) == 1
        assert reaper.zombies(now=4.9) == 0
        assert reaper.zombies(now=5.1) == 1
        assert await reaper.aclose(within=60) == 0

    run_virtual(story())


def test_a_bug_in_a_loser_is_heard() -> None:
    """The loop's exception handler gets what nobody awaits any more."""

    async def crashing() -> Outcome:
        try:
            await asyncio.sleep(1)
        finally:
            raise ScriptedBug("while winding down")

    async def story() -> None:
        heard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        reaper = Reaper()
        loser = asyncio.ensure_future(crashing())
        await asyncio.sleep(0)
        reaper.take(loser, now=0.0)
        await reaper.aclose(within=10)
        await asyncio.sleep(0)
        assert [type(context["exception"]) for context in heard] == [ScriptedBug]

    run_virtual(story())
