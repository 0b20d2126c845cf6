"""Callers who post, and somebody who kills: at every step of a job, and at random moments."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from pathlib import Path

from strategies import value
from tests.kills.checks import events_after, faults, leftovers, running_at, settled
from tests.kills.launch import REAL, STEPS, Pace
from tests.kills.site import KINDS, Site, site, start_all

SOONEST, LATEST = 0.1, 3.0
"""Seconds between two kills, from and to."""
POSTS = (0.1, 0.7)
"""Seconds between two jobs of one caller."""
CALLERS = 2
CROWD = 9
"""Jobs of one client at once, more than may be under way."""
SETTLES = 150.0
"""Seconds within which all has to end after the last kill: redelivery, the longest pause before another look
(30 s), rescue, the schedule of webhooks, and a machine that does other things too."""
CALLBACKS = ("", "", "hook", "flaky")
SORTS = ("server", "other", "store", "all")


@value
class Outcome:
    """
    What a run came to.

    Attributes:
        kills: of each sort.
        settled: seconds from the last kill until nothing was left to do.
        swept: uploads that nobody had ended.
    """

    kind: str
    kills: dict[str, int]
    jobs: int
    files: int
    webhooks: int
    seconds: float
    settled: float
    swept: int
    faults: tuple[str, ...]


async def run(
    folder: Path,
    kind: str,
    kills: int,
    pace: Pace,
    *,
    steps: bool,
    latest: float = LATEST,
    seed: int | None = None,
) -> Outcome:
    """
    Kill at every step if *steps*, then so often at random; let it settle, and look at everything.

    Args:
        latest: seconds between two kills, at most.
    """
    began = time.monotonic()
    async with site(folder, kind, pace, seed) as place:
        done = Counter(step=await kill_at_each_step(place, kind) if steps else 0)
        await start_all(place, KINDS[kind])
        done += await kill_at_random(place, kind, kills, latest)
        took = await settled(place, SETTLES)
        wrong = await faults(place)
        await asyncio.to_thread(place.stop)
        swept, left = await leftovers(place)
        return Outcome(
            kind,
            dict(done),
            len(place.journal),
            sum(len(job.files) for job in place.journal),
            sum(map(len, place.receiver.ids.values())),
            time.monotonic() - began,
            took,
            swept,
            (*wrong, *(f"left over: {path}" for path in left)),
        )


async def kill_at_each_step(place: Site, kind: str) -> int:
    """
    Everybody who runs is told to kill himself at a step, and whoever survives the first one is killed too;
    then the same with the next step. Returns how many steps there are.
    """
    async with asyncio.TaskGroup() as group:
        for step in STEPS:
            await start_all(place, KINDS[kind], step)
            if step == "put":
                group.create_task(place.try_once(), name="a caller who goes away")
            elif step == "cancelled":
                group.create_task(place.post_and_cancel(), name="a caller who cancels")
            elif step == "parked":
                for _ in range(CROWD):
                    group.create_task(place.post(), name="one of many callers")
            else:
                group.create_task(place.post(2, "flaky" if step == "attempted" else "hook"), name="a caller")
            await place.ended()
            place.kill(*place.children)
        await start_all(place, KINDS[kind])
    return len(STEPS)


async def kill_at_random(place: Site, kind: str, kills: int, latest: float) -> Counter[str]:
    """Kill that often, while callers post, and start again at once what was killed; kills of each sort."""
    enough = asyncio.Event()
    done: Counter[str] = Counter()
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(_post(place, enough), name=f"caller {number}")
        for number in range(kills):
            await asyncio.sleep(place.rng.uniform(SOONEST, latest))
            sort = SORTS[number] if number < len(SORTS) else place.rng.choice(SORTS)
            await _kill(place, kind, sort)
            done[f"other {KINDS[kind][1]}" if sort == "other" else sort] += 1
        enough.set()
        await start_all(place, KINDS[kind])
    return done


async def _post(place: Site, enough: asyncio.Event) -> None:
    while not enough.is_set():
        await place.post(place.rng.randint(1, 3), place.rng.choice(CALLBACKS))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), place.rng.uniform(*POSTS))


async def _kill(place: Site, kind: str, sort: str) -> None:
    if sort == "all":
        place.kill(0, 1)
    elif sort != "store":
        place.kill(SORTS.index(sort))
    if sort in ("store", "all"):
        await asyncio.to_thread(place.store.kill)
    for name, role in enumerate(KINDS[kind]):
        if name not in place.children:
            place.start(name, role, "")


async def gone_on_after(folder: Path, pace: Pace = REAL) -> float:
    """Kill one of two servers, for good, and tell after how many seconds the last of its jobs went on."""
    async with site(folder, "two", pace) as place:
        jobs: list[str] = []
        while not jobs:
            await start_all(place, KINDS["two"])
            async with asyncio.TaskGroup() as group:
                for _ in range(CROWD):
                    group.create_task(place.post(3), name="a caller")
            pid = place.children[0].process.pid or 0
            place.kill(0)
            killed = time.time()
            jobs = await running_at(place, pid)  # what it brought to an end before that does not go on
        latest = 0.0
        for job_id in jobs:
            while not (events := await events_after(place, job_id, round(killed * 1000) + 1)):
                assert time.time() - killed < SETTLES, f"{job_id} does not go on; see {place.log}"
                await asyncio.sleep(0.05)
            latest = max(latest, float(events[0][0].split("-")[0]) / 1000 - killed)
        return latest
