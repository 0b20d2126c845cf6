"""How much a client may ask, and how it is told: through the whole application, counted in the job store."""

from __future__ import annotations

import uuid

from tests.downloads.conftest import Start
from tests.downloads.whole import BASE, Answer, Files


def standing(answer: Answer) -> tuple[str, str, int]:
    """Policy, limit and what is left."""
    headers = answer.headers
    assert 1 <= int(headers["RateLimit-Reset"]) <= 60
    return headers["RateLimit-Policy"], headers["RateLimit-Limit"], int(headers["RateLimit-Remaining"])


async def test_every_answer_of_the_limited_routes_says_where_the_client_stands(start: Start) -> None:
    site = await start(RATE_LIMIT="on")
    job_id, left = await site.job(70000), 99
    nobody = uuid.uuid4()
    for path, status in (
        ("/", 200),
        (f"{BASE}/status/{job_id}", 200),
        (f"{BASE}/subscribe/{job_id}", 200),
        (f"{BASE}/status/{nobody}", 404),
        (f"{BASE}/jobs?limit=0", 400),
        (f"{BASE}/no/such/path", 404),
    ):
        answer = await site.get(path)
        left -= 1
        assert (answer.status, standing(answer)) == (status, ("100;w=60", "100", left)), path
    for path in ("/api/first", "/health", "/metrics"):
        answer = await site.get(path)
        assert answer.status == 200
        assert "RateLimit-Policy" not in answer.headers


async def test_who_asks_too_often_is_told_when_to_come_again_whatever_origin_he_invents(start: Start) -> None:
    site = await start(RATE_LIMIT="on", RATE_LIMIT_MAX_REQUESTS="2", RATE_LIMIT_WINDOW_MS="30000")
    assert [(await site.get("/")).status for _ in range(2)] == [200, 200]
    for number in range(3):
        answer = await site.initiate(70000, X_Forwarded_For=f"203.0.113.{number}")
        assert (answer.status, answer.told["code"]) == (429, "rate_limited")
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert 1 <= int(answer.headers["Retry-After"]) <= 30
        assert answer.headers["RateLimit-Policy"] == "2;w=30"
        assert answer.headers["RateLimit-Remaining"] == "0"
    assert (await site.get("/api/first")).status == 200


async def test_two_servers_on_one_store_count_together(start: Start) -> None:
    settings = {"RATE_LIMIT": "on", "RATE_LIMIT_MAX_REQUESTS": "2"}
    here, there = await start(**settings), await start(**settings)
    statuses = [(await site.get("/")).status for site in (here, there, here, there)]
    assert statuses == [200, 200, 429, 429]


async def test_behind_a_trusted_proxy_each_client_has_its_own_allowance(start: Start) -> None:
    site = await start(RATE_LIMIT="on", RATE_LIMIT_MAX_REQUESTS="1", TRUSTED_PROXIES="127.0.0.1")
    statuses = [
        (await site.get("/", X_Forwarded_For=f"9.9.9.{number}, 203.0.113.{number % 2}")).status
        for number in range(4)
    ]
    assert statuses == [200, 200, 429, 429]


async def test_a_client_has_so_many_open_jobs_and_no_more(files: Files, start: Start) -> None:
    files.hold()
    site = await start(
        DOWNLOAD_SOURCE_URL=files.url, DOWNLOAD_OPEN_JOBS_PER_CLIENT="2", TRUSTED_PROXIES="127.0.0.1"
    )
    first = await site.job(70000, Idempotency_Key="1")
    await site.job(70007)
    answer = await site.initiate(70014)
    assert (answer.status, answer.told["code"]) == (429, "too_many_jobs")
    assert int(answer.headers["Retry-After"]) >= 1
    assert await site.job(70000, Idempotency_Key="1") == first, "this is no new one"
    assert (await site.initiate(70014, X_Forwarded_For="203.0.113.7")).status == 200
    await site.cancel(first)
    assert (await site.initiate(70014)).status == 200


async def test_a_client_has_so_many_jobs_that_are_worked_on_while_others_have_theirs(
    files: Files, start: Start
) -> None:
    files.hold()
    site = await start(
        DOWNLOAD_SOURCE_URL=files.url, DOWNLOAD_JOBS_PER_CLIENT="1", TRUSTED_PROXIES="127.0.0.1"
    )
    first = await site.job(70000)
    await site.told(first, "running")
    second = await site.job(70007)
    other = await site.job(70014, X_Forwarded_For="203.0.113.7")
    await site.told(other, "running")
    assert (await site.status(second))["status"] == "queued"
    files.open.set()
    for job_id in (first, second, other):
        assert (await site.ended(job_id))["status"] == "completed"
