"""A job as callers see it: JSON documents from plain values. It asks nobody and waits for nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson

from server.downloads.jobs import ENDED, File, Job, JobState, Summary

BASE = "/v1/download"


def links(job_id: str) -> dict[str, str]:
    """Where to go from here."""
    return {
        "status": f"{BASE}/status/{job_id}",
        "events": f"{BASE}/subscribe/{job_id}",
        "download": f"{BASE}/{job_id}",
    }


def accepted(job: Job | Summary) -> dict[str, Any]:
    """What the caller of a new job needs to know."""
    return {
        "jobId": job.id,
        "status": job.state.value,
        "totalFileIds": job.total,
        "links": links(job.id),
    }


def summary(job: Job | Summary) -> dict[str, Any]:
    """A job without its files."""
    return {
        **accepted(job),
        "progress": job.percent,
        "completedFiles": job.completed,
        "failedFiles": job.failed,
        "createdAt": moment(job.created),
        "startedAt": moment(job.started),
        "endedAt": moment(job.ended),
        "expiresAt": moment(job.expires),
        "error": job.error,
    }


def status(job: Job) -> dict[str, Any]:
    """All of a job."""
    told = job.callback
    return {
        **summary(job),
        "files": [_file(file) for file in job.files],
        "runs": job.run,
        "lastEventId": job.last_event,
        "callback": told and {"status": told.state, "attempts": told.attempts, "detail": told.detail},
    }


def _file(file: File) -> dict[str, Any]:
    return {
        "fileId": file.id,
        "status": file.state.value,
        "progress": file.percent,
        "size": file.size,
        "attempts": file.attempts,
        "error": file.error,
    }


def webhook(job: Job) -> bytes:
    """What a webhook tells of a job that has ended: no list of files, which could be longer than advised."""
    if job.state is JobState.EXPIRED:  # the message stays what it was, however late it is delivered
        job = replace(job, state=JobState.COMPLETED)
    told = {
        "type": f"download.{job.state.value}",
        "timestamp": moment(job.ended),
        "data": {**summary(job), "eventId": job.last_event},
    }
    return orjson.dumps(told)


def moment(seconds: float | None) -> str | None:
    """Seconds since 1970 as RFC 3339, to the millisecond; None stays None."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def retry_after(job: Job, now: float) -> int:
    """Seconds until it makes sense to ask for its status again: a tenth of its age, from 1 to 15."""
    age = now - (job.created if job.started is None else job.started)
    return 0 if job.state in ENDED else min(max(round(age / 10), 1), 15)
