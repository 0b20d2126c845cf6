"""Where the download API is served, and what its documentation says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler

from server.downloads import schemas
from server.downloads.documents import BASE
from server.downloads.handlers import DownloadHandlers
from server.openapi import Reply, document, problem

Method: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

TAG = "downloads"
RETRIED = (
    "With an `Idempotency-Key`, repeating the request gives the same job. `Prefer: respond-async` and "
    "`wait=N` (RFC 7240) say whether, and for how many seconds, to wait for its end."
)
STREAM = (
    "Server-sent events: `queued`, `running`, `progress`, `file`, and in the end `completed`, `failed` or "
    "`cancelled`. Each has an id; `Last-Event-ID` goes on after it, at any server. A comment every 15 s. "
    "`resync` brings the whole status when events before it are no longer known."
)
LATER, WHERE, FOLLOWED = "Retry-After", "Location", "Preference-Applied"
COMMON = {
    429: problem("Too many requests, jobs or streams; `Retry-After` says when to come again.", LATER),
    503: problem("The job store, or the object store, is away.", LATER),
}
BODY = {
    400: problem("The body is not valid; `errors` says which field, and why."),
    413: problem("The body is larger than 1 MiB."),
    415: problem("The body is not `application/json`."),
}
MAKES = {
    202: Reply(
        "With `Prefer: respond-async`: taken, but not ended yet.",
        schemas.AcceptedSchema,
        headers=(WHERE, FOLLOWED),
    ),
    422: problem("The `Idempotency-Key` was used with another body."),
    507: problem("A store has no room left.", LATER),
}
TAKEN = {"anyOf": [schemas.AcceptedSchema, schemas.StatusSchema]}
OF_ID = f"{BASE}/{{jobId:[0-9a-f-]{{36}}}}"
"""So narrow that a wrong method at ``initiate`` is not taken for a job of that name."""
OF_JOB = {404: problem("There is no such job.")}


def add_download_routes(app: web.Application, handlers: DownloadHandlers) -> None:
    """Bind the download API to *app*."""
    post, get = app.router.add_post, app.router.add_get
    post(
        f"{BASE}/initiate",
        document(
            _function(handlers.initiate),
            tag=TAG,
            summary="A new job for some files; at once.",
            description=RETRIED,
            headers=schemas.MakeHeadersSchema,
            body=schemas.InitiateSchema,
            replies={
                200: Reply("The job; all of it once it has ended.", TAKEN, headers=(FOLLOWED,)),
                **MAKES,
                **BODY,
                **COMMON,
            },
        ),
    )
    post(
        f"{BASE}/check",
        document(
            _function(handlers.check),
            tag=TAG,
            summary="Whether a file can be had.",
            query=schemas.CheckQuerySchema,
            body=schemas.FileSchema,
            replies={
                200: Reply("What is known of it.", schemas.CheckedSchema),
                500: problem("With `sentry_test=true`: the failure that was asked for."),
                **BODY,
                **COMMON,
            },
        ),
    )
    post(
        f"{BASE}/start",
        document(
            _function(handlers.start),
            tag=TAG,
            summary="One file, waited for.",
            description=RETRIED,
            headers=schemas.MakeHeadersSchema,
            body=schemas.FileSchema,
            replies={
                200: Reply("What became of it.", schemas.StartedSchema, headers=(FOLLOWED,)),
                410: problem("The `Idempotency-Key` is that of a job whose result has expired."),
                504: problem(
                    "Not there yet; the job goes on, and `links` say where.", WHERE, LATER, FOLLOWED
                ),
                **MAKES,
                **BODY,
                **COMMON,
            },
        ),
    )
    get(
        f"{BASE}/jobs",
        document(
            _function(handlers.jobs),
            tag=TAG,
            summary="One's own jobs, newest first.",
            query=schemas.JobsQuerySchema,
            replies={
                200: Reply("A page of them.", schemas.JobsSchema),
                400: problem("A parameter is not valid."),
                **COMMON,
            },
        ),
    )
    get(
        f"{BASE}/status/{{jobId}}",
        document(
            _function(handlers.status),
            tag=TAG,
            summary="A job, as it stands.",
            path=schemas.JobPathSchema,
            replies={
                200: Reply("The job.", schemas.StatusSchema, headers=(LATER,)),
                **OF_JOB,
                **COMMON,
            },
        ),
    )
    get(
        f"{BASE}/subscribe/{{jobId}}",
        document(
            _function(handlers.subscribe),
            tag=TAG,
            summary="All that happens to a job, as it happens.",
            description=STREAM,
            path=schemas.JobPathSchema,
            query=schemas.SubscribeQuerySchema,
            headers=schemas.SubscribeHeadersSchema,
            replies={
                200: Reply("The events.", {"type": "string"}, None, "text/event-stream"),
                204: Reply("The job has ended, and the client knows."),
                400: problem("`Last-Event-ID` is not the id of an event."),
                **OF_JOB,
                **COMMON,
            },
        ),
    )
    get(
        OF_ID,
        document(
            _function(handlers.download),
            tag=TAG,
            summary="Links to the files of a job that has completed.",
            path=schemas.JobPathSchema,
            query=schemas.DownloadQuerySchema,
            replies={
                200: Reply("The links.", schemas.ResultSchema),
                303: Reply("With `redirect=true`: to the one file.", headers=(WHERE,)),
                400: problem("A parameter is not valid."),
                409: problem("The job has not ended, or not with a result.", LATER),
                410: problem("The result has expired."),
                **OF_JOB,
                **COMMON,
            },
        ),
    )
    app.router.add_delete(
        OF_ID,
        document(
            _function(handlers.cancel),
            tag=TAG,
            summary="Cancel a job, also while it is worked on.",
            path=schemas.JobPathSchema,
            replies={
                200: Reply("The job, cancelled.", schemas.StatusSchema),
                409: problem("It has ended already."),
                507: problem("The job store has no room left.", LATER),
                **OF_JOB,
                **COMMON,
            },
        ),
    )


def _function(method: Method) -> Handler:
    """A method cannot be documented, a function can."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await method(request)

    return handle
