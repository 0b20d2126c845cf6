"""Whatever is killed, and when: what was acknowledged is done, once. The long form is ``make kills``."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.kills.chaos import gone_on_after, run
from tests.kills.launch import BRISK, STEPS, Pace
from tests.kills.site import site, start_all

pytestmark = [pytest.mark.kills, pytest.mark.system]

DOCS = Path(__file__).parents[2] / "docs/reference/durability.rst"
ELSEWHERE = 15.0
"""Seconds after which a dead server's jobs go on at another one, at the latest."""
KILLS, LATEST = 6, 1.5
HASTY = Pace(redelivery=1.0, silent=7.0, every=2.0, deaths=3)


@pytest.mark.fault(89)
async def test_no_job_is_lost_or_done_twice_at_whichever_step_its_process_is_killed(tmp_path: Path) -> None:
    outcome = await run(tmp_path, "embedded", 0, BRISK, steps=True)
    assert outcome.faults == ()
    assert outcome.jobs >= len(STEPS)
    assert outcome.swept > 0, "who dies while a file is being stored leaves a part of it"


def test_the_steps_and_what_they_mean_are_in_the_docs() -> None:
    told = re.findall(r"^``(\w+)``  +(.+)$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert dict(told) == STEPS


@pytest.mark.parametrize("kind", ["embedded", "two"])
@pytest.mark.fault(84, 89)
async def test_no_job_is_lost_or_done_twice_whatever_is_killed_at_random_moments(
    tmp_path: Path, kind: str
) -> None:
    outcome = await run(tmp_path, kind, KILLS, BRISK, steps=False, latest=LATEST)
    assert outcome.faults == ()
    assert sum(outcome.kills.values()) == KILLS


@pytest.mark.fault(84)
async def test_the_jobs_of_a_dead_server_go_on_elsewhere_soon(tmp_path: Path) -> None:
    assert await gone_on_after(tmp_path) <= ELSEWHERE


async def test_a_job_whose_workers_die_each_time_fails_in_the_end_and_says_so(tmp_path: Path) -> None:
    async with site(tmp_path, "embedded", HASTY) as place:
        await start_all(place, ["server"], "file")
        job = await place.post()
        for _ in range(HASTY.deaths):
            await place.ended()
            place.kill(0)
            await start_all(place, ["server"], "file")
        found = await place.status(job.id, lambda found: found["endedAt"])
        assert (found["status"], found["error"]) == ("failed", "3 workers have died at this job.")
        assert found["runs"] == HASTY.deaths + 1


async def test_that_the_store_dies_is_no_death_of_a_worker(tmp_path: Path) -> None:
    """A job that meets it again and again is done in the end."""
    async with site(tmp_path, "redis", HASTY) as place:
        place.settings["DOWNLOAD_DELAY_MIN_MS"] = place.settings["DOWNLOAD_DELAY_MAX_MS"] = "3000"
        await start_all(place, ["server"])
        job = await place.post()

        def again(outages: int, found: dict[str, Any]) -> bool:
            return bool(found["runs"] > outages)

        for outages in range(HASTY.deaths + 1):
            await place.status(job.id, partial(again, outages))
            place.store.kill()
        found = await place.status(job.id, lambda found: found["endedAt"])
        assert found["status"] == "completed", found["error"]
