"""What is common to every route: ids, headers, CORS, error documents, health, readiness, documentation."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from aiohttp import web
from openapi_spec_validator import validate

from server.app import LIFECYCLE, create_app
from server.errors import from_http
from server.lifespan import SESSION
from server.routes import load_table
from server.settings import load_settings
from tests.server.conftest import Client, Serve, Upstream

EVERYWHERE = ("/", "/health", "/ready", "/metrics", "/openapi", "/docs", "/nothing", "/api/first?timeout=0")


@pytest.mark.parametrize("path", EVERYWHERE)
async def test_every_response_has_the_security_headers(client: Client, path: str) -> None:
    """Errors too; and nothing tells a version."""
    async with client.get(path) as response:
        await response.read()
    headers = response.headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "SAMEORIGIN"
    assert headers["Strict-Transport-Security"] == "max-age=15552000; includeSubDomains"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Server"] == "Hedgerow"
    assert headers["Access-Control-Allow-Origin"] == "*"
    uuid.UUID(headers["X-Request-Id"])


@pytest.mark.parametrize("given", ["test-request-id-12345", "a", "A.b_c-9", "x" * 128])
@pytest.mark.fault(31)
async def test_a_wellformed_request_id_is_echoed(client: Client, given: str) -> None:
    """So that a caller's log and ours can be read side by side."""
    async with client.get("/", headers={"X-Request-Id": given}) as response:
        assert response.headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "ü", "a/b", "<script>", "%0d%0aSet-Cookie: a=b"])
@pytest.mark.fault(31)
async def test_any_other_request_id_is_replaced(client: Client, given: str) -> None:
    """It is never reflected."""
    async with client.get("/", headers={"X-Request-Id": given}) as response:
        assert str(uuid.UUID(response.headers["X-Request-Id"])) == response.headers["X-Request-Id"]


async def test_preflight(client: Client) -> None:
    """A browser is told what it may send, and which headers it may read."""
    asked = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    async with client.options("/api/all", headers=asked) as response:
        assert response.status == 204
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        assert "POST" in response.headers["Access-Control-Allow-Methods"]
        assert "Content-Type" in response.headers["Access-Control-Allow-Headers"]
    async with client.get("/") as response:
        exposed = response.headers["Access-Control-Expose-Headers"]
    for name in (
        "X-Request-Id",
        "RateLimit-Limit",
        "Retry-After",
        "Location",
        "Server-Timing",
        "traceparent",
    ):
        assert name in exposed


async def test_listed_origins_are_named_and_others_are_not(serve: Serve) -> None:
    """A page that is not on the list reads somebody else's origin and is kept out by its browser."""
    client = await serve(CORS_ORIGINS="https://a.example, https://b.example")
    for origin, answer in (
        ("https://b.example", "https://b.example"),
        ("https://evil.example", "https://a.example"),
        (None, "https://a.example"),
    ):
        headers = {"Origin": origin} if origin else {}
        async with client.get("/", headers=headers) as response:
            assert response.headers["Access-Control-Allow-Origin"] == answer
            assert response.headers["Vary"] == "Origin"


async def test_an_unknown_path_is_a_problem_document(client: Client) -> None:
    """404, in the one form that all errors have."""
    async with client.get("/nothing/here?secret=1") as response:
        body = await response.json(content_type=None)
    assert (response.status, response.content_type) == (404, "application/problem+json")
    assert (body["status"], body["code"], body["instance"]) == (404, "not_found", "/nothing/here")
    assert body["requestId"] == response.headers["X-Request-Id"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_a_wrong_method_is_told_the_right_ones(client: Client, upstream: Upstream, method: str) -> None:
    """405 with ``Allow``, as a problem document; the upstream is not asked."""
    async with client.request(method, "/api/all") as response:
        body = await response.json(content_type=None)
    assert (response.status, body["code"]) == (405, "method_not_allowed")
    assert "GET" in response.headers["Allow"]
    assert upstream.calls == 0


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (web.HTTPRequestEntityTooLarge(1, 2), "too_large"),
        (web.HTTPUnsupportedMediaType(), "unsupported_media_type"),
        (web.HTTPConflict(), "http_error"),
    ],
)
def test_what_aiohttp_raises_becomes_a_problem(raised: web.HTTPException, code: str) -> None:
    """The status stays; the text is ours and echoes nothing."""
    problem = from_http(raised)
    assert (problem.status, problem.code) == (raised.status, code)


async def test_a_bug_is_a_500_that_tells_nothing(
    upstream: Upstream, aiohttp_client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback and the request's id; the caller has only the id."""
    settings = load_settings({"DOWNLOADS": "off"})
    app = create_app(settings, load_table(MINIMAL, {}))

    async def broken(request: web.Request) -> web.Response:
        raise RuntimeError("the secret of the house")

    app.router.add_get("/broken", broken)
    client = await aiohttp_client(app)
    async with client.get("/broken", headers={"X-Request-Id": "find-me"}) as response:
        text = await response.text()
    assert response.status == 500
    assert "secret" not in text
    [record] = [one for one in caplog.records if one.name == "hedgerow.server" and one.levelname == "ERROR"]
    assert "find-me" in record.getMessage()
    assert record.exc_info is not None


MINIMAL = """
[upstream.work]
url = "$WORK_API_URL"
simulator = "/api/work"
[[route]]
name = "first"
path = "/api/first"
strategy = "first"
upstream = "work"
"""


async def test_the_welcome(serve: Serve) -> None:
    """The text is the operator's; the links lead to the documentation."""
    client = await serve(WELCOME_MESSAGE="Hello Hono!")
    async with client.get("/") as response:
        body = await response.json()
    assert body["message"] == "Hello Hono!"
    assert body["links"]["docs"] == "/docs"


async def test_health_tells_each_check(client: Client) -> None:
    """200 and healthy while all is well; 503 and unhealthy when one thing is not."""
    async with client.get("/health") as response:
        assert (response.status, await response.json()) == (
            200,
            {"status": "healthy", "checks": {"session": "ok"}},
        )
    await client.app[SESSION].close()
    async with client.get("/health") as response:
        assert (response.status, await response.json()) == (
            503,
            {"status": "unhealthy", "checks": {"session": "error"}},
        )


async def test_ready_turns_503_while_draining(client: Client) -> None:
    """And every answer then closes its connection, so that callers move away."""
    async with client.get("/ready") as response:
        assert (response.status, (await response.json())["ready"]) == (200, True)
    client.app[LIFECYCLE].draining = True
    async with client.get("/ready") as response:
        body = await response.json()
        assert (response.status, body["ready"], body["draining"]) == (503, False, True)
        assert response.headers["Connection"] == "close"


async def test_metrics_are_in_prometheus_form(client: Client) -> None:
    """Text for Prometheus; OpenMetrics for those who ask."""
    async with client.get("/api/first") as response:
        await response.read()
    async with client.get("/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain")
        text = await response.text()
    assert 'hedgerow_attempts_total{outcome="success",route="first",upstream="work"}' in text
    assert 'hedgerow_connections_total{state="opened",upstream="work"}' in text
    assert 'hedgerow_wins_total{attempt="' in text
    assert 'hedgerow_deadline_slack_seconds_bucket{le="0.0",route="first"}' in text
    asked = {"Accept": "application/openmetrics-text"}
    async with client.get("/metrics", headers=asked) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")


@pytest.mark.fault(102)
async def test_random_paths_make_no_new_series(client: Client) -> None:
    """Labels come from the route table, never from a caller."""
    for n in range(20):
        async with client.get(f"/random/{n}", headers={"X-Request-Id": f"id-{n}"}) as response:
            await response.read()
    async with client.get("/metrics") as response:
        text = await response.text()
    assert 'hedgerow_responses_total{reason="not_found",route="other",status="404"} 20.0' in text
    assert "/random/" not in text


@pytest.mark.parametrize("path", ["/openapi", "/openapi.json"])
async def test_the_openapi_document_is_valid_and_tells_every_route(client: Client, path: str) -> None:
    """Each route with its parameter, its responses and its errors."""
    async with client.get(path) as response:
        told = await response.json()
    validate(told)
    served = {r.resource.canonical for r in client.app.router.routes() if r.resource is not None}
    assert set(told["paths"]) == served - {"/docs", "/docs/{name}"}
    smart = told["paths"]["/api/smart"]["get"]
    assert smart["parameters"][0]["schema"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 30000,
        "example": 1000,
    }
    assert set(smart["responses"]) == {"200", "400", "503"}


async def test_two_applications_in_one_process_tell_the_same(serve: Serve) -> None:
    """aiohttp-apispec's own set-up loses the schemas of the second; ours does not."""
    documents = []
    for _ in range(2):
        client = await serve()
        async with client.get("/openapi.json") as response:
            documents.append(await response.json())
    assert documents[0] == documents[1]


async def test_swagger_ui_comes_without_internet(client: Client) -> None:
    """The page and all it loads are served by us, under a policy that allows nothing else."""
    async with client.get("/docs") as response:
        page = await response.text()
        assert response.content_type == "text/html"
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert "http://" not in page
    assert "https://" not in page
    for name in ("swagger-ui.css", "swagger-ui-bundle.js", "start.js", "favicon-32x32.png"):
        assert f"/docs/{name}" in page
        async with client.get(f"/docs/{name}") as response:
            assert response.status == 200
            assert await response.read()


@pytest.mark.parametrize("name", ["..%2f..%2fserver%2fapp.py", "LICENSE", "%00", "swagger-ui.css.map"])
async def test_no_other_file_can_be_read(client: Client, name: str) -> None:
    """The list of files is fixed."""
    async with client.get(f"/docs/{name}") as response:
        assert response.status == 404
