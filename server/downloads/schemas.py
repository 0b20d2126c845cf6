"""What callers of the download API send and get: one marshmallow schema each, to validate and to document."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema
from marshmallow import fields as f
from marshmallow.validate import Length, OneOf, Range

from server.downloads.jobs import FileState, JobState
from server.downloads.objects import LARGEST_ID, SMALLEST_ID
from server.openapi import header
from server.params import Whole

MOST_FILES = 1000
MOST_LISTED = 100
LONGEST_URL = 2048
FEW = Length(1, MOST_FILES, error="Must name {min} to {max} files.")
NO_ID = f"Must be a whole number from {SMALLEST_ID} to {LARGEST_ID}."
NO_LIST = f"Must be a list of 1 to {MOST_FILES} file ids."


class FileIds(f.List[int]):
    """Counted before they are looked at: half a million of them take seconds."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, list):
            FEW(value)
        return super()._deserialize(value, attr, data, **kwargs)


def _file_id(**kwargs: Any) -> f.Integer:
    return f.Integer(
        strict=True,
        validate=Range(SMALLEST_ID, LARGEST_ID, error=NO_ID),
        error_messages=dict.fromkeys(("invalid", "null", "too_large"), NO_ID),
        metadata={"example": 70000},
        **kwargs,
    )


class InitiateSchema(Schema):
    """A new job. A file that is named twice is one file."""

    file_ids = FileIds(
        _file_id(),
        required=True,
        validate=FEW,
        error_messages=dict.fromkeys(("invalid", "null"), NO_LIST),
        metadata={"example": [70000, 70007]},
    )
    callbackUrl = f.String(
        load_default=None,
        validate=Length(1, LONGEST_URL),
        metadata={"description": "Where the end of the job is told, by a signed POST."},
    )


class FileSchema(Schema):
    """One file."""

    file_id = _file_id(required=True)


class JobPathSchema(Schema):
    """A job, in the path."""

    jobId = f.String(required=True, metadata={"format": "uuid"})


class JobsQuerySchema(Schema):
    """Which of one's jobs to list."""

    state = f.String(
        load_default="",
        metadata={
            "description": "States, separated by commas; all if left out.",
            "example": "queued,running",
        },
    )
    limit = Whole(1, MOST_LISTED, load_default=20, metadata={"description": "Jobs at most."})
    cursor = f.String(
        load_default=None, validate=Length(1, 200), metadata={"description": "`next` of the page before."}
    )


class SubscribeQuerySchema(Schema):
    """From where on to follow a job."""

    lastEventId = f.String(metadata={"description": "As the header `Last-Event-ID`, which goes before it."})


class DownloadQuerySchema(Schema):
    """How to hand out the result."""

    redirect = f.Boolean(
        load_default=False,
        truthy={"true"},
        falsy={"false"},
        error_messages={"invalid": "Must be true or false."},
        metadata={"description": "303 to the one file, if there is just one."},
    )


class CheckQuerySchema(Schema):
    """For operators."""

    sentry_test = f.String(
        load_default="false",
        validate=OneOf(["true", "false"], error="Must be true or false."),
        metadata={"description": "`true`: fail, to see that errors are reported."},
    )


class MakeHeadersSchema(Schema):
    """The headers of a request for a new job: for the document, the handlers read them themselves."""

    prefer = header("Prefer", "`respond-async`, `wait=N` or both (RFC 7240); N is in seconds.")
    idempotency_key = header(
        "Idempotency-Key",
        "Repeating the request with it gives the same job. Visible ASCII.",
        validate=Length(1, 255),
    )


class SubscribeHeadersSchema(Schema):
    """From where on to follow a job, in the headers."""

    last_event_id = header(
        "Last-Event-ID", "The last event that the client has; the stream goes on after it."
    )


class LinksSchema(Schema):
    """Where to go from here."""

    status = f.String(required=True)
    events = f.String(required=True)
    download = f.String(required=True)


class AcceptedSchema(Schema):
    """A job that was taken."""

    jobId = f.String(required=True, metadata={"format": "uuid"})
    status = f.String(required=True, validate=OneOf([one.value for one in JobState]))
    totalFileIds = f.Integer(required=True)
    links = f.Nested(LinksSchema, required=True)


class FileStatusSchema(Schema):
    """One file of a job."""

    fileId = f.Integer(required=True)
    status = f.String(required=True, validate=OneOf([one.value for one in FileState]))
    progress = f.Integer(required=True, metadata={"description": "In percent."})
    size = f.Integer(required=True, allow_none=True, metadata={"description": "In bytes, once it is known."})
    attempts = f.Integer(required=True)
    error = f.String(required=True, allow_none=True)


class CallbackStatusSchema(Schema):
    """What became of the webhook."""

    status = f.String(required=True)
    attempts = f.Integer(required=True)
    detail = f.String(required=True, allow_none=True)


class SummarySchema(AcceptedSchema):
    """A job, without its files."""

    progress = f.Integer(required=True, metadata={"description": "In percent."})
    completedFiles = f.Integer(required=True)
    failedFiles = f.Integer(required=True)
    createdAt = f.DateTime(required=True)
    startedAt = f.DateTime(required=True, allow_none=True)
    endedAt = f.DateTime(required=True, allow_none=True)
    expiresAt = f.DateTime(required=True, allow_none=True)
    error = f.String(required=True, allow_none=True)


class StatusSchema(SummarySchema):
    """A job, as it stands."""

    files = f.List(f.Nested(FileStatusSchema), required=True)
    runs = f.Integer(required=True, metadata={"description": "How often a worker took it up."})
    lastEventId = f.String(required=True)
    callback = f.Nested(CallbackStatusSchema, required=True, allow_none=True)


class JobsSchema(Schema):
    """One's jobs, newest first."""

    jobs = f.List(f.Nested(SummarySchema), required=True)
    next = f.String(
        required=True, allow_none=True, metadata={"description": "`cursor` of the next page; null: the last."}
    )


class CheckedSchema(Schema):
    """Whether a file can be had at once."""

    file_id = f.Integer(required=True)
    available = f.Boolean(required=True)
    s3Key = f.String(required=True, allow_none=True)
    size = f.Integer(required=True, allow_none=True)


class StartedSchema(Schema):
    """What became of a file that was waited for."""

    file_id = f.Integer(required=True)
    status = f.String(required=True, validate=OneOf(["completed", "failed"]))
    downloadUrl = f.String(required=True, allow_none=True)
    size = f.Integer(required=True, allow_none=True)
    processingTimeMs = f.Integer(required=True)
    message = f.String(required=True)


class ResultFileSchema(Schema):
    """One file of a result."""

    fileId = f.Integer(required=True)
    status = f.String(required=True)
    downloadUrl = f.String(required=True, allow_none=True)
    size = f.Integer(required=True, allow_none=True)
    error = f.String(required=True, allow_none=True)


class ResultSchema(Schema):
    """The result of a job."""

    jobId = f.String(required=True)
    status = f.String(required=True)
    files = f.List(f.Nested(ResultFileSchema), required=True)
    linksExpireAt = f.DateTime(required=True)
