"""What every route has in common, seen from the download API: headers, ids, CORS, methods, documentation."""

from __future__ import annotations

import uuid

from openapi_spec_validator import validate

from tests.downloads.whole import BASE, Answer, Files, Site


async def one_of_each(site: Site, **headers: str) -> list[Answer]:
    """An answer of each kind: taken, there, redirected, not there, refused, of the wrong method."""
    job_id = await site.completed(70000)
    return [
        await site.initiate(70000, **headers),
        await site.ask("POST", f"{BASE}/start", {"file_id": 70000}, **headers),
        await site.ask("POST", f"{BASE}/check", {"file_id": 70000}, **headers),
        await site.get(f"{BASE}/status/{job_id}", **headers),
        await site.get(f"{BASE}/{job_id}", **headers),
        await site.get(f"{BASE}/{job_id}?redirect=true", **headers),
        await site.get(f"{BASE}/subscribe/{job_id}", **headers),
        await site.get(f"{BASE}/jobs", **headers),
        await site.ask("DELETE", f"{BASE}/{job_id}", **headers),
        await site.initiate(**headers),
        await site.get(f"{BASE}/{uuid.uuid4()}", **headers),
        await site.get(f"{BASE}/status", **headers),
        await site.get(f"{BASE}/a/b/c", **headers),
        await site.ask("PUT", f"{BASE}/jobs", **headers),
        await site.get("/objects/downloads/70000.zip", **headers),
    ]


async def test_every_answer_has_the_security_headers_and_an_id_of_its_own(site: Site) -> None:
    answers = await one_of_each(site)
    for answer in answers:
        headers = answer.headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "SAMEORIGIN"
        assert headers["Strict-Transport-Security"] == "max-age=15552000; includeSubDomains"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Server"] == "Hedgerow"
        assert headers["Access-Control-Allow-Origin"] == "*"
    assert len({uuid.UUID(answer.headers["X-Request-Id"]) for answer in answers}) == len(answers)


async def test_every_answer_repeats_the_callers_request_id(site: Site) -> None:
    for answer in await one_of_each(site, X_Request_Id="test-request-id-12345"):
        assert answer.headers["X-Request-Id"] == "test-request-id-12345"


async def test_every_error_is_a_problem_document_that_older_callers_can_read_too(site: Site) -> None:
    errors = [answer for answer in await one_of_each(site) if answer.status >= 400]
    assert [answer.status for answer in errors] == [409, 400, 404, 404, 404, 405, 403]
    for answer in errors:
        told = answer.told
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert told["status"] == answer.status
        assert told["requestId"] == answer.headers["X-Request-Id"]
        assert told["instance"].startswith("/")
        for name in ("type", "title", "detail", "code", "error", "message"):
            assert isinstance(told[name], str), name
            assert told[name]


async def test_a_wrong_method_is_told_the_right_ones(site: Site) -> None:
    nobody = uuid.uuid4()
    for method, path, right in (
        ("GET", "initiate", {"POST"}),
        ("GET", "check", {"POST"}),
        ("DELETE", "start", {"POST"}),
        ("POST", f"status/{nobody}", {"GET", "HEAD"}),
        ("POST", f"subscribe/{nobody}", {"GET", "HEAD"}),
        ("PUT", f"{nobody}", {"GET", "HEAD", "DELETE"}),
        ("PATCH", "jobs", {"GET", "HEAD"}),
        ("DELETE", "jobs", {"GET", "HEAD"}),
    ):
        answer = await site.ask(method, f"{BASE}/{path}")
        assert (answer.status, answer.told["code"]) == (405, "method_not_allowed"), path
        assert set(answer.headers["Allow"].replace(" ", "").split(",")) == right, path


async def test_a_browser_may_send_what_the_api_needs_and_read_what_it_answers(site: Site) -> None:
    asks = {
        "Origin": "https://page.example",
        "Access_Control_Request_Method": "POST",
        "Access_Control_Request_Headers": "content-type, idempotency-key, prefer, last-event-id",
    }
    answer = await site.ask("OPTIONS", f"{BASE}/initiate", **asks)
    assert answer.status == 204
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    for name in ("content-type", "idempotency-key", "prefer", "last-event-id"):
        assert name in allowed
    for method in ("POST", "GET", "DELETE"):
        assert method in answer.headers["Access-Control-Allow-Methods"]
    exposed = (await site.initiate(70000, Origin="https://page.example")).headers[
        "Access-Control-Expose-Headers"
    ]
    assert set(exposed.split(", ")) >= {
        "X-Request-Id",
        "RateLimit-Policy",
        "RateLimit-Limit",
        "RateLimit-Remaining",
        "RateLimit-Reset",
        "Retry-After",
        "Location",
        "Preference-Applied",
        "Server-Timing",
        "traceparent",
    }


async def test_head_tells_what_get_would(slow: Site, files: Files) -> None:
    job_id = await slow.job()
    await files.asked.wait()
    for path, status in ((f"status/{job_id}", 200), (f"subscribe/{job_id}", 200), (f"{job_id}", 409)):
        answer = await slow.ask("HEAD", f"{BASE}/{path}")
        assert (answer.status, answer.body) == (status, b""), path


async def test_the_documentation_tells_every_route(site: Site) -> None:
    told = (await site.get("/openapi.json")).told
    validate(told)
    methods = {path: set(item) - {"parameters"} for path, item in told["paths"].items() if "/v1/" in path}
    assert methods == {
        f"{BASE}/initiate": {"post"},
        f"{BASE}/check": {"post"},
        f"{BASE}/start": {"post"},
        f"{BASE}/jobs": {"get"},
        f"{BASE}/status/{{jobId}}": {"get"},
        f"{BASE}/subscribe/{{jobId}}": {"get"},
        f"{BASE}/{{jobId}}": {"get", "delete"},
    }


async def test_every_answer_is_one_that_the_documentation_tells(site: Site) -> None:
    paths = (await site.get("/openapi.json")).told["paths"]
    for path, method, status in (
        ("/initiate", "post", {"200", "202", "400", "413", "415", "422", "429", "503", "507"}),
        ("/check", "post", {"200", "400", "413", "415", "429", "500", "503"}),
        ("/start", "post", {"200", "202", "400", "413", "415", "422", "429", "503", "504", "507"}),
        ("/status/{jobId}", "get", {"200", "404", "429", "503"}),
        ("/subscribe/{jobId}", "get", {"200", "204", "400", "404", "429", "503"}),
        ("/{jobId}", "get", {"200", "303", "400", "404", "409", "410", "429", "503"}),
        ("/{jobId}", "delete", {"200", "404", "409", "429", "503", "507"}),
        ("/jobs", "get", {"200", "400", "429", "503"}),
    ):
        assert status <= set(paths[f"{BASE}{path}"][method]["responses"]), path
