"""
``python -m tests.kills``, the long form: every step, then random moments, with all times as in production.
A kill comes every second or two here, so a job may meet ten of them and be innocent: it may meet more.

It says what each kind of site came to, and what is wrong there; the exit code is 1 if anything is.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.kills.chaos import Outcome, gone_on_after, run
from tests.kills.launch import REAL
from tests.kills.site import KINDS

PACE = replace(REAL, deaths=100)
DEATHS = 5
"""How often one of two servers is killed for good, to see how long its jobs take to go on at the other."""


def main() -> int:
    """Do what the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="at random moments, of each kind of site")
    parser.add_argument("--store", choices=[*KINDS, "all"], default="all", help="the kind of site")
    parser.add_argument("--seed", type=int, help="luck; what happens still differs from run to run")
    arguments = parser.parse_args()
    wrong = 0
    for kind in KINDS if arguments.store == "all" else [arguments.store]:
        folder = Path(tempfile.mkdtemp(prefix="kills-"))
        outcome = asyncio.run(run(folder, kind, arguments.kills, PACE, steps=True, seed=arguments.seed))
        tell(outcome)
        if outcome.faults:
            wrong += 1
            say(f"  see {folder}")
        if kind == "two":
            say(f"  one of two servers killed: its jobs went on after {elsewhere():.1f} s at the latest")
    return min(wrong, 1)


def elsewhere() -> float:
    """The longest of several times."""
    return max(asyncio.run(gone_on_after(Path(tempfile.mkdtemp(prefix="kills-")))) for _ in range(DEATHS))


def tell(outcome: Outcome) -> None:
    """What a run came to."""
    say(
        f"{outcome.kind}: {sum(outcome.kills.values())} kills {outcome.kills} in {outcome.seconds:.0f} s; "
        f"{outcome.jobs} jobs acknowledged, with {outcome.files} files; {outcome.webhooks} webhooks; "
        f"all was settled {outcome.settled:.1f} s after the last kill; {outcome.swept} uploads swept; "
        f"{len(outcome.faults)} faults"
    )
    for fault in outcome.faults:
        say(f"  {fault}")


def say(line: str) -> None:
    """A line, at once."""
    print(line, flush=True)  # noqa: T201 - for whoever runs it


if __name__ == "__main__":
    sys.exit(main())
