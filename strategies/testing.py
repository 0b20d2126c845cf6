"""The public double and the conformance kit, for us and for whoever writes a strategy of their own.

`ScriptedFetch` plays an upstream by script, `timeline` tells what a strategy did and when, and
`check_strategy` holds any strategy to the laws that ours keep. All of it runs on virtual time: nothing here
sleeps, and times are exact.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from strategies.base import Strategy
from strategies.deadline import Deadline
from strategies.outcome import Answered, Attempt, Failed, Outcome, Request, Result, Target, Verdict
from strategies.reaper import Reaper
from strategies.value import value
from strategies.virtual_time import VirtualTimeLoop, run_virtual

__all__ = [
    "ConformanceError",
    "ScriptedBug",
    "ScriptedFetch",
    "Step",
    "VirtualTimeLoop",
    "answers",
    "check_strategy",
    "crashes",
    "fails",
    "hangs",
    "request_for",
    "run_virtual",
    "timeline",
]

Moment: TypeAlias = tuple[float, str]


class ScriptedBug(Exception):
    """What an attempt scripted by `crashes` raises: an error of the program, not of the upstream."""


class ScriptedAnswer:
    """The value of a scripted success; it knows whether somebody closed it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@value
class Step:
    """
    What one attempt does: after *after* seconds it ends as *ending*; when it is cancelled, its clean-up
    takes *cleanup* seconds.
    """

    after: float
    ending: str
    cleanup: float = 0.0


def answers(after: float, *, cleanup: float = 0.0) -> Step:
    """A success, *after* seconds."""
    return Step(after, "answers", cleanup)


def fails(after: float, *, cleanup: float = 0.0) -> Step:
    """A failure that is a value, *after* seconds."""
    return Step(after, "fails", cleanup)


def crashes(after: float) -> Step:
    """A bug: `ScriptedBug` is raised *after* seconds."""
    return Step(after, "crashes")


def hangs(*, cleanup: float = 0.0) -> Step:
    """Silence, for as long as anybody waits."""
    return Step(10_000_000.0, "answers", cleanup)


class ScriptedFetch:
    """
    A `strategies.Fetch` that follows a script: the first attempt plays the first step, and so on; further
    attempts repeat the last one.

    Attributes:
        log: what happened, as ``(time, what)``: ``start 0``, ``0 answers``, ``0 fails``, ``0 crashes``,
            ``0 cancelled``.
        answered: the value of each success handed out, to see which were closed.
    """

    def __init__(self, *script: Step) -> None:
        self._script = script
        self._started = 0
        self.log: list[Moment] = []
        self.answered: list[ScriptedAnswer] = []

    async def __call__(self, attempt: Attempt) -> Outcome:
        loop = asyncio.get_running_loop()
        number, self._started = self._started, self._started + 1
        step = self._script[min(number, len(self._script) - 1)]
        started = loop.time()
        self._note(f"start {number}")
        try:
            await asyncio.sleep(step.after)
        except asyncio.CancelledError:
            self._note(f"{number} cancelled")
            if step.cleanup:
                await asyncio.sleep(step.cleanup)
            raise
        self._note(f"{number} {step.ending}")
        if step.ending == "crashes":
            raise ScriptedBug(f"attempt {number}")
        if step.ending == "fails":
            return Failed(attempt, started, loop.time(), "scripted", "the script says so")
        answer = ScriptedAnswer(number)
        self.answered.append(answer)
        return Answered(attempt, started, loop.time(), Verdict.SUCCESS, answer)

    def _note(self, what: str) -> None:
        self.log.append((round(asyncio.get_running_loop().time(), 9), what))


Make: TypeAlias = Callable[[ScriptedFetch, Reaper], Strategy[Any]]


def request_for(count: int) -> Request:
    """A request for *count* targets, all of one upstream."""
    return Request("test", (Target("upstream"),) * count)


def timeline(make: Make, *script: Step, timeout: float, targets: int = 3) -> list[Moment]:
    """
    What a strategy does when its upstream follows *script*: starts and failures as they happen, and its
    end: ``1 wins``, ``gathers 0 2`` (the attempts whose answers were kept) or ``gives up``.
    """

    async def story() -> list[Moment]:
        fetch, reaper = ScriptedFetch(*script), Reaper()
        strategy = make(fetch, reaper)
        result = await strategy.execute(request_for(targets), Deadline.after(timeout, now=0.0))
        end = round(asyncio.get_running_loop().time(), 9)
        seen = [moment for moment in fetch.log if not moment[1].endswith((" cancelled", " answers"))]
        return [*seen, (end, _ending(result))]

    return run_virtual(story())


def _ending(result: Result) -> str:
    if result.winner is not None:
        return f"{result.winner.attempt.number} wins"
    if result.verdict is Verdict.SUCCESS:
        return " ".join(["gathers", *(str(answer.attempt.number) for answer in result.answers)])
    return "gives up"


class ConformanceError(AssertionError):
    """A strategy broke one or more laws; the message lists each with the script that shows it."""


SCRIPTS: dict[str, tuple[Step, ...]] = {
    "all answer": (answers(0.2), answers(0.1), answers(0.3)),
    "all answer at the same instant": (answers(0.1),),
    "all fail": (fails(0.1),),
    "all fail at once": (fails(0.0),),
    "the first fails, the second answers": (fails(0.05), answers(0.5), hangs()),
    "one hangs": (hangs(), answers(0.2), answers(0.4)),
    "all hang": (hangs(),),
    "losers take a second to clean up": (answers(0.1, cleanup=1.0), hangs(cleanup=1.0)),
    "all hang and take a second to clean up": (hangs(cleanup=1.0),),
    "an answer comes at the deadline": (answers(1.0),),
    "an answer comes a moment after the deadline": (answers(1.000001),),
}
TIMEOUT = 1.0
TOLERANCE = 1e-6


def check_strategy(make: Make, *, targets: int = 3) -> None:
    """
    Hold the strategy that ``make(fetch, reaper)`` builds to the laws of the house, on virtual time:

    1. it returns by the deadline, whatever the upstream does;
    2. it never raises for an upstream's fault, and never hides a bug;
    3. clean-up of losers does not delay the answer;
    4. it leaves no task behind: what still runs is with the reaper;
    5. answers that it did not claim are closed, once; those that it claimed are open;
    6. it claims only successes, and a winner is among them;
    7. a cancellation from outside passes through, at once, at any moment, and leaves nothing behind.

    Raises:
        ConformanceError: with every law that was broken.
    """
    broken: list[str] = []
    for name, script in SCRIPTS.items():
        laws = run_virtual(_observe(make, script, targets))
        broken += [f"{law} ({name})" for law in laws]
        if any(law.startswith("raises") for law in laws):
            continue
        prompt = tuple(Step(step.after, step.ending) for step in script)
        if _end_of(make, script, targets) > _end_of(make, prompt, targets) + TOLERANCE:
            broken.append(f"clean-up of losers delays the answer ({name})")
        for moment in (0.0, 0.05, 0.1, 0.15, 0.3, 0.45, 0.999):
            laws = run_virtual(_observe_cancelled(make, script, targets, moment))
            broken += [f"{law} (cancelled at {moment}, {name})" for law in laws]
    if not run_virtual(_raises_bug(make, targets)):
        broken.append("a bug in the fetch is hidden (every attempt crashes)")
    if broken:
        raise ConformanceError("\n".join(["the strategy breaks the laws:", *broken]))


async def _observe(make: Make, script: Sequence[Step], targets: int) -> list[str]:
    fetch, reaper = ScriptedFetch(*script), Reaper()
    try:
        result = await make(fetch, reaper).execute(request_for(targets), Deadline.after(TIMEOUT, now=0.0))
    except Exception as error:
        return [f"raises {error!r} for an upstream's fault"]
    broken = []
    if (end := asyncio.get_running_loop().time()) > TIMEOUT + TOLERANCE:
        broken.append(f"returns at {end:.6f} s, after the deadline of {TIMEOUT} s")
    if any(answer.verdict is not Verdict.SUCCESS for answer in result.answers):
        broken.append("claims an answer that is not a success")
    if result.winner is not None and not any(result.winner is answer for answer in result.answers):
        broken.append("names a winner that is not among its answers")
    claimed = [answer.value for answer in result.answers]
    return broken + await _left_behind(fetch, reaper, claimed)


async def _observe_cancelled(make: Make, script: Sequence[Step], targets: int, moment: float) -> list[str]:
    fetch, reaper = ScriptedFetch(*script), Reaper()
    strategy = make(fetch, reaper)
    task = asyncio.ensure_future(strategy.execute(request_for(targets), Deadline.after(TIMEOUT, now=0.0)))
    await asyncio.sleep(moment)
    if task.done():
        return []
    task.cancel()
    await asyncio.wait([task])
    broken = []
    if not task.cancelled():
        broken.append("swallows a cancellation from outside")
    if asyncio.get_running_loop().time() > moment + TOLERANCE:
        broken.append("makes a cancellation from outside wait")
    return broken + await _left_behind(fetch, reaper, [])


async def _left_behind(fetch: ScriptedFetch, reaper: Reaper, claimed: Sequence[object]) -> list[str]:
    """The laws about leftovers, seen once the losers have had all the time they want."""
    broken = []
    await reaper.aclose(within=60.0)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        broken.append(f"leaves {len(others)} task(s) that the reaper does not own")
    for answer in fetch.answered:
        wanted = 0 if any(answer is one for one in claimed) else 1
        if answer.closed != wanted:
            broken.append(f"answer {answer.number} was closed {answer.closed} times instead of {wanted}")
    return broken


def _end_of(make: Make, script: Sequence[Step], targets: int) -> float:
    return timeline(make, *script, timeout=TIMEOUT, targets=targets)[-1][0]


async def _raises_bug(make: Make, targets: int) -> bool:
    strategy = make(ScriptedFetch(crashes(0.1)), Reaper())
    try:
        await strategy.execute(request_for(targets), Deadline.after(TIMEOUT, now=0.0))
    except ScriptedBug:
        return True
    return False
