"""Locust's callers on the four work routes, each request with a timeout drawn from 500 to 1000 ms.

What counts as a failure here is what the contract forbids. A 200 within the timeout is right, and so is the
route's own error within it (500 of all and first, 503 of smart; within-timeout has none). Anything else, and
whatever comes later than the timeout and LATE_MS (10), is a failure.
"""

from __future__ import annotations

import os
import random
import time

from locust import FastHttpUser, constant, task

UNMET = {"all": 500, "first": 500, "smart": 503}
LATE_MS = float(os.environ.get("LATE_MS", "10"))
SHORTEST, LONGEST = 500, 1000


class Caller(FastHttpUser):
    """One caller: asks, waits for the answer, asks again."""

    wait_time = constant(0)

    def ask(self, route: str) -> None:
        """One request, judged."""
        timeout = random.randint(SHORTEST, LONGEST)
        started = time.perf_counter()
        with self.client.get(
            f"/api/{route}?timeout={timeout}", name=f"/api/{route}", catch_response=True
        ) as response:
            took = (time.perf_counter() - started) * 1000
            if response.status_code not in (200, UNMET.get(route, 200)):
                response.failure(f"status {response.status_code}")
            elif took > timeout + LATE_MS:
                response.failure(f"late, by more than {LATE_MS:g} ms")
            else:
                response.success()

    @task
    def all(self) -> None:
        """Both payloads."""
        self.ask("all")

    @task
    def first(self) -> None:
        """The first payload."""
        self.ask("first")

    @task
    def smart(self) -> None:
        """The hedged payload."""
        self.ask("smart")

    @task
    def within_timeout(self) -> None:
        """Whatever came in time."""
        self.ask("within-timeout")
