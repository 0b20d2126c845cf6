"""The end of a job, told to whoever gave a ``callbackUrl``: one webhook per job, tried by the schedule.

What is sent, and what an answer means, is `server.webhooks`'s; here it meets the job's record and the queue.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence

from server.downloads.engine import Again
from server.downloads.jobs import Job
from server.downloads.metrics import Metrics
from server.downloads.records import Records
from server.job_store.opening import JobStoreError
from server.trace_context import Spans, Task, no_span
from server.webhooks.delivery import Delivered, Disabled, Message, Outcome, Poster, Retry, deliver
from server.webhooks.schedule import next_attempt

log = logging.getLogger("hedgerow.webhooks")

UNREACHED = "The receiver could not be reached."
AFTER_OUTAGE = 5.0
"""Seconds until the next look, when the job store was away."""
ANEW = Again(0.0)
"""What was told of is undone, by ``jobs retry`` or ``jobs replay``. Who wanted it told anew has found this
look in the queue, and put no other there."""


class Callbacks:
    """
    Args:
        records: where jobs, and what became of their callbacks, are written down.
        body: what is sent of a job, JSON in UTF-8.
        secrets: what it is signed with: one or two, the new one first.
        poster: sends it.
        clock: seconds since 1970.
        rng: luck.
        metrics: what an operator sees of it.
        step: told the name of each step before it is taken; a test may end the process there.
        span: gives each attempt a span. The receiver is a stranger and is not told of it.
    """

    def __init__(
        self,
        records: Records,
        body: Callable[[Job], bytes],
        secrets: Sequence[str],
        poster: Poster,
        clock: Callable[[], float],
        rng: random.Random,
        metrics: Metrics,
        step: Callable[[str], None] = lambda name: None,
        span: Spans = no_span,
    ) -> None:
        self._records = records
        self._body = body
        self._secrets = secrets
        self._poster = poster
        self._clock = clock
        self._rng = rng
        self._metrics = metrics
        self._step = step
        self._span = span

    async def look_at(self, job_id: str, look: int) -> Again | None:
        """A `server.downloads.engine.Work`: make the next attempt to tell of the end of the job."""
        try:
            job = await self._records.view(job_id)
            if job is None or job.callback is None or not job.owes:
                return None
            self._step("send")
            message = Message(message_id(job), job.callback.url, self._body(job))
            with self._span(Task.WEBHOOK, job.traceparent, attempt=job.callback.attempts) as note:
                outcome = await deliver(message, self._secrets, self._poster, self._clock)
                note(type(outcome).__name__.lower(), failed=not isinstance(outcome, Delivered))
            self._step("sent")
            return await self._noted(job, job.callback.attempts + 1, outcome)
        except JobStoreError as error:
            log.warning("webhook of job %s: %s", job_id, error.detail)
            return Again(AFTER_OUTAGE)

    async def _noted(self, job: Job, attempts: int, outcome: Outcome) -> Again | None:
        self._metrics.webhook(type(outcome).__name__.lower())
        if isinstance(outcome, Delivered):
            return await self._settled(job, "delivered", attempts)
        if isinstance(outcome, Disabled):
            return await self._settled(job, "disabled", attempts)
        now = self._clock()
        asked, told = (outcome.after, outcome.told) if isinstance(outcome, Retry) else (0.0, UNREACHED)
        at = next_attempt(attempts, now, self._rng, asked)
        if at is None:
            return await self._settled(job, "given_up", attempts)
        counts = await self._records.attempted(job.id, job.last_event, attempts, told)
        return Again(at - now) if counts else ANEW

    async def _settled(self, job: Job, outcome: str, attempts: int) -> Again | None:
        counts = await self._records.settle(job.id, job.last_event, outcome, attempts)
        return None if counts else ANEW


def message_id(job: Job) -> str:
    """The id of the message about the job's latest event: the same for each attempt, of no other message."""
    return f"{job.id}_{job.last_event}"
