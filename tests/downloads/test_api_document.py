"""The OpenAPI document of the download API, held against what the API answers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from jsonschema import ValidationError

from server.lifespan import Trial
from tests.described import described
from tests.downloads.conftest import Start
from tests.downloads.places import Clock
from tests.downloads.whole import BASE, Answer, Files, Site

OBJECTS = "/objects/downloads/{file_id}.zip"


async def document(site: Site) -> dict[str, Any]:
    """The OpenAPI document."""
    told: dict[str, Any] = (await site.get("/openapi.json")).told
    return told


def declared(told: dict[str, Any], path: str, method: str, answer: Answer, status: int) -> None:
    """Fail unless *answer* has that *status* and is as the document says."""
    assert answer.status == status, answer.told
    kind = answer.headers["Content-Type"].partition(";")[0]
    described(told, path, method, (answer.status, kind, answer.told))
    has_its_headers(told, path, method, answer)


def has_its_headers(told: dict[str, Any], path: str, method: str, answer: Answer) -> None:
    """Fail if *answer* carries a header that the document knows, but not for such an answer."""
    sent = {name for name in told["components"]["headers"] if name in answer.headers}
    assert sent <= set(told["paths"][path][method]["responses"][str(answer.status)]["headers"])


async def test_what_is_told_of_a_job_that_has_not_ended_is_as_the_document_says(slow: Site) -> None:
    told = await document(slow)
    body = {"file_id": 70000}
    taken = await slow.initiate(70000)
    declared(told, f"{BASE}/initiate", "post", taken, 200)
    declared(told, f"{BASE}/initiate", "post", await slow.initiate(70000, Prefer="respond-async"), 202)
    late = await slow.ask("POST", f"{BASE}/start", body, Prefer="wait=0")
    declared(told, f"{BASE}/start", "post", late, 504)
    assert {"jobId", "jobStatus", "links"} <= set(late.told)
    assert {"Location", "Retry-After"} <= set(late.headers)
    later = await slow.ask("POST", f"{BASE}/start", body, Prefer="respond-async")
    declared(told, f"{BASE}/start", "post", later, 202)
    early = await slow.get(f"{BASE}/{taken.told['jobId']}")
    declared(told, f"{BASE}/{{jobId}}", "get", early, 409)
    assert {"jobId", "jobStatus"} <= set(early.told)
    declared(told, f"{BASE}/status/{{jobId}}", "get", await slow.get(taken.told["links"]["status"]), 200)


async def test_what_is_told_of_a_job_that_has_ended_is_as_the_document_says(site: Site) -> None:
    told = await document(site)
    body = {"file_id": 70000}
    whole = await site.initiate(70000, Prefer="wait=20")
    declared(told, f"{BASE}/initiate", "post", whole, 200)
    assert whole.told["files"]
    job_id = whole.told["jobId"]
    declared(told, f"{BASE}/start", "post", await site.ask("POST", f"{BASE}/start", body), 200)
    declared(told, f"{BASE}/check", "post", await site.ask("POST", f"{BASE}/check", body), 200)
    declared(told, f"{BASE}/jobs", "get", await site.get(f"{BASE}/jobs"), 200)
    declared(told, f"{BASE}/status/{{jobId}}", "get", await site.get(f"{BASE}/status/{job_id}"), 200)
    declared(told, f"{BASE}/{{jobId}}", "get", await site.get(f"{BASE}/{job_id}"), 200)
    declared(told, f"{BASE}/{{jobId}}", "delete", await site.cancel(job_id), 409)
    declared(told, f"{BASE}/initiate", "post", await site.initiate(), 400)


async def test_the_failure_that_check_gives_on_request_is_as_the_document_says(site: Site) -> None:
    answer = await site.ask("POST", f"{BASE}/check?sentry_test=true", {"file_id": 70000})
    declared(await document(site), f"{BASE}/check", "post", answer, 500)


async def test_what_is_told_of_a_result_that_has_expired_is_as_the_document_says(start: Start) -> None:
    wall = Clock(time.time())
    site = await start(Trial(wall=wall), DOWNLOAD_KEEP_MS="3600000")
    told, body = await document(site), {"file_id": 70000}
    assert (await site.ask("POST", f"{BASE}/start", body, Idempotency_Key="one")).status == 200
    [job] = (await site.get(f"{BASE}/jobs")).told["jobs"]
    wall.now += 3601
    declared(told, f"{BASE}/{{jobId}}", "get", await site.get(f"{BASE}/{job['jobId']}"), 410)
    again = await site.ask("POST", f"{BASE}/start", body, Idempotency_Key="one")
    declared(told, f"{BASE}/start", "post", again, 410)


async def test_the_refusal_of_a_stream_is_as_the_document_says(files: Files, start: Start) -> None:
    files.hold()
    site = await start(DOWNLOAD_SOURCE_URL=files.url, SSE_STREAMS_PER_CLIENT="1")
    job_id = await site.job()
    async with site.follow(job_id) as events:
        await anext(events)
        answer = await site.get(f"{BASE}/subscribe/{job_id}")
    declared(await document(site), f"{BASE}/subscribe/{{jobId}}", "get", answer, 429)
    assert answer.told["limit"] == 1


async def test_the_refusal_of_a_request_is_as_the_document_says(start: Start) -> None:
    site = await start(RATE_LIMIT="on", RATE_LIMIT_MAX_REQUESTS="1")
    told = await document(site)
    declared(told, "/", "get", await site.get("/"), 200)
    assert {"RateLimit-Limit", "Retry-After"} <= set(told["paths"]["/"]["get"]["responses"]["429"]["headers"])
    declared(told, "/", "get", await site.get("/"), 429)
    declared(told, f"{BASE}/jobs", "get", await site.get(f"{BASE}/jobs"), 429)


async def test_the_headers_of_links_and_of_files_are_as_the_document_says(site: Site) -> None:
    told = await document(site)
    job_id = await site.completed(70000)
    answer = await site.get(f"{BASE}/{job_id}?redirect=true")
    assert answer.status == 303
    has_its_headers(told, f"{BASE}/{{jobId}}", "get", answer)
    link = answer.headers["Location"].removeprefix(site.url)
    whole = await site.get(link)
    for status, headers in (
        (200, {}),
        (206, {"Range": "bytes=0-1"}),
        (304, {"If_None_Match": whole.headers["ETag"]}),
        (412, {"If_Match": '"another"'}),
        (416, {"Range": "bytes=99999999999-"}),
    ):
        answer = await site.get(link, **headers)
        assert answer.status == status
        has_its_headers(told, OBJECTS, "get", answer)


async def test_the_documentation_tells_every_header_that_a_client_may_send(site: Site) -> None:
    found = {
        (path, one["name"])
        for path, item in (await document(site))["paths"].items()
        for operation in item.values()
        for one in operation.get("parameters", [])
        if one["in"] == "header" and not one["required"] and one["description"]
    }
    assert found == {
        (f"{BASE}/initiate", "Idempotency-Key"),
        (f"{BASE}/initiate", "Prefer"),
        (f"{BASE}/start", "Idempotency-Key"),
        (f"{BASE}/start", "Prefer"),
        (f"{BASE}/subscribe/{{jobId}}", "Last-Event-ID"),
        (OBJECTS, "Range"),
        (OBJECTS, "If-Range"),
        (OBJECTS, "If-Match"),
        (OBJECTS, "If-None-Match"),
        (OBJECTS, "If-Modified-Since"),
        (OBJECTS, "If-Unmodified-Since"),
    }


async def test_an_answer_with_too_little_or_too_much_is_not_as_the_document_says(slow: Site) -> None:
    told, taken = await document(slow), (await slow.initiate(70000)).told
    for wrong in ({**taken, "more": 1}, {name: taken[name] for name in taken if name != "links"}):
        with pytest.raises(ValidationError):
            described(told, f"{BASE}/initiate", "post", (200, "application/json", wrong))
