"""What an operator can see of downloads: counters and distributions, each with one meaning.

Labels are our own words; no id of a job, a file or a client is one.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Gauge

from server.downloads.jobs import FileState, JobState
from server.tally import Tallies

SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0, 90.0, 120.0, 180.0, 300.0, 600.0, 1800.0, 3600.0)
"""Bucket bounds from a tenth of a second to an hour."""


class Metrics:
    """The metrics of downloads in one process, in *registry*."""

    def __init__(self, registry: CollectorRegistry) -> None:
        tallies = Tallies()
        self._created = tallies.counter("hedgerow_jobs_created", "Jobs that were accepted.", [])
        self._ended = tallies.counter(
            "hedgerow_jobs_ended", "Jobs that came to their end, by state.", ["state"]
        )
        self._job_seconds = tallies.histogram(
            "hedgerow_job_seconds",
            "How long jobs took, from being accepted to their end.",
            ["state"],
            SECONDS,
        )
        self._looks = tallies.gauge("hedgerow_jobs_in_flight", "Jobs that this process works on.", [])
        self._again = tallies.counter(
            "hedgerow_jobs_put_off", "Looks at a job that have to be repeated, by why.", ["reason"]
        )
        self._files = tallies.counter("hedgerow_job_files", "Files of jobs that ended, by state.", ["state"])
        self._webhooks = tallies.counter(
            "hedgerow_webhooks", "Attempts to deliver a webhook, by what became of them.", ["outcome"]
        )
        registry.register(tallies)
        self._streams = Gauge("hedgerow_event_streams", "Event streams that are open.", registry=registry)

    def watch_streams(self, count: Callable[[], int]) -> None:
        """Show how many streams are open."""
        self._streams.set_function(count)

    def created(self) -> None:
        """A job was accepted."""
        self._created[()] += 1

    def taken_up(self) -> None:
        """A look at a job has begun."""
        self._looks[()] += 1

    def left(self) -> None:
        """It has ended."""
        self._looks[()] -= 1

    def put_off(self, reason: str) -> None:
        """It has to be repeated."""
        self._again[(reason,)] += 1

    def ended(self, state: JobState, seconds: float) -> None:
        """A job came to its end, *seconds* after it was accepted."""
        self._ended[(state.value,)] += 1
        self._job_seconds[(state.value,)].observe(max(seconds, 0.0))

    def file(self, state: FileState) -> None:
        """A file of a job ended."""
        self._files[(state.value,)] += 1

    def webhook(self, outcome: str) -> None:
        """An attempt to deliver a webhook ended."""
        self._webhooks[(outcome,)] += 1
