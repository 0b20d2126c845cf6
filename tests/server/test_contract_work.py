"""Every row of the contract of ``/api/*``, over HTTP. The exact timing is in tests/strategies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from server.app import ROUTES as TABLE
from tests.server.conftest import Client, Serve, Upstream

ROUTES = ("/api/all", "/api/first", "/api/within-timeout", "/api/smart")
A, B = b'{"time": 200}', b'{"time": 300}'


async def ask(client: Client, path: str) -> tuple[int, Any]:
    """Status and JSON of one GET."""
    async with client.get(path) as response:
        return response.status, await response.json(content_type=None)


class TestAll:
    async def test_all_successes_as_an_array(self, client: Client, upstream: Upstream) -> None:
        """Two calls at once, both payloads."""
        upstream.plays(A, B)
        status, body = await ask(client, "/api/all")
        assert (status, sorted(one["time"] for one in body)) == (200, [200, 300])
        assert upstream.calls == 2

    async def test_one_failed_leaves_an_array_of_one(self, client: Client, upstream: Upstream) -> None:
        """The failure is left out."""
        upstream.plays(A, 500)
        assert await ask(client, "/api/all") == (200, [{"time": 200}])

    async def test_none_succeeded_is_500(self, client: Client, upstream: Upstream) -> None:
        """The document says that both failed, and how."""
        upstream.plays(500, b"oops")
        status, body = await ask(client, "/api/all")
        assert (status, body["code"]) == (500, "no_success")
        assert sorted(one["outcome"] for one in body["attempts"]) == ["http_error", "invalid_payload"]

    async def test_one_unfinished_at_the_timeout_is_500(self, client: Client, upstream: Upstream) -> None:
        """A success in hand does not help."""
        upstream.plays(A, "hang")
        status, body = await ask(client, "/api/all?timeout=1500")
        assert (status, body["code"]) == (500, "timeout")
        assert sorted(one["outcome"] for one in body["attempts"]) == ["success", "timeout"]


class TestFirst:
    async def test_the_first_success(self, client: Client, upstream: Upstream) -> None:
        """The other one hangs, and nobody minds."""
        upstream.plays("hang", A)
        assert await ask(client, "/api/first") == (200, {"time": 200})
        assert upstream.calls == 2

    async def test_a_failure_does_not_win(self, client: Client, upstream: Upstream) -> None:
        """A success that comes later than a failure is the answer."""
        later = asyncio.Event()
        upstream.plays(500, later)
        asking = asyncio.ensure_future(ask(client, "/api/first"))
        await upstream.called_times(2)
        later.set()
        assert await asking == (200, {"time": 1})

    @pytest.mark.parametrize(
        ("script", "query", "code"), [(500, "", "no_success"), ("hang", "?timeout=50", "timeout")]
    )
    async def test_no_success_is_500(
        self, client: Client, upstream: Upstream, script: int | str, query: str, code: str
    ) -> None:
        """Whether they failed or were silent shows in the code."""
        upstream.plays(script)
        status, body = await ask(client, f"/api/first{query}")
        assert (status, body["code"]) == (500, code)


class TestWithinTimeout:
    async def test_what_arrived_in_time(self, client: Client, upstream: Upstream) -> None:
        """The silent one is left out at the timeout."""
        upstream.plays(A, "hang")
        assert await ask(client, "/api/within-timeout?timeout=1500") == (200, [{"time": 200}])

    async def test_nothing_in_time_is_an_empty_array(self, client: Client, upstream: Upstream) -> None:
        """There is no error on this route."""
        upstream.plays("hang")
        assert await ask(client, "/api/within-timeout?timeout=50") == (200, [])

    async def test_all_failed_is_an_empty_array(self, client: Client, upstream: Upstream) -> None:
        """At once: nobody waits for the timeout."""
        upstream.plays(500)
        assert await ask(client, "/api/within-timeout") == (200, [])


PATIENT = TABLE.read_text("utf-8").replace("delay = 0.3", "delay = 30.0")
"""With a hedge that does not come by time alone, however slow this machine is."""


class TestSmart:
    async def test_a_quick_success_costs_one_call(self, serve: Serve, upstream: Upstream) -> None:
        """The body tells the time that we took and the payload as it came."""
        client = await serve(PATIENT)
        status, body = await ask(client, "/api/smart")
        assert (status, body["api"], upstream.calls) == (200, {"time": 160}, 1)
        assert isinstance(body["time"], int)

    async def test_a_failure_fires_two_more_at_once(self, serve: Serve, upstream: Upstream) -> None:
        """Three calls in all; a success of the later two is the answer."""
        client = await serve(PATIENT)
        upstream.plays(500, "hang", A)
        status, body = await ask(client, "/api/smart?timeout=30000")
        assert (status, body["api"], upstream.calls) == (200, {"time": 200}, 3)
        assert body["time"] < 20_000

    async def test_silence_fires_two_more_and_the_first_may_still_win(
        self, client: Client, upstream: Upstream
    ) -> None:
        """The first call is not cancelled by the hedge."""
        first = asyncio.Event()
        upstream.plays(first, "hang", "hang")
        asking = asyncio.ensure_future(ask(client, "/api/smart"))
        await upstream.called_times(3)
        first.set()
        status, body = await asking
        assert (status, body["api"]) == (200, {"time": 1})
        assert body["time"] >= 298  # uvloop and this loop may fire a timer a little early

    async def test_all_three_failed_is_503_at_once(self, client: Client, upstream: Upstream) -> None:
        """No waiting for the timeout."""
        upstream.plays(500)
        status, body = await ask(client, "/api/smart")
        assert (status, body["code"], upstream.calls) == (503, "no_success", 3)
        assert [one["attempt"] for one in body["attempts"]] == [0, 1, 2]

    async def test_silence_until_the_timeout_is_503(self, serve: Serve, upstream: Upstream) -> None:
        """Before the hedge's time nothing else is fired."""
        client = await serve(PATIENT)
        upstream.plays("hang")
        status, body = await ask(client, "/api/smart?timeout=700")
        assert (status, body["code"], upstream.calls) == (503, "timeout", 1)


@pytest.mark.parametrize(
    "body",
    [b"", b"oops", b"[]", b'"time"', b'{"time": true}', b'{"time": "1"}', b'{"Time": 1}', b"NaN", b"\xff"],
)
async def test_an_invalid_payload_is_a_failure(client: Client, upstream: Upstream, body: bytes) -> None:
    """Status 200 alone is no success."""
    upstream.plays(body)
    status, told = await ask(client, "/api/first")
    assert (status, told["attempts"][0]["outcome"]) == (500, "invalid_payload")


async def test_a_payload_is_handed_on_to_the_byte(client: Client, upstream: Upstream) -> None:
    """It is validated, not decoded and encoded again."""
    payload = '{ "time":1.50,  "more": ["ü", 1e3] }'.encode()
    upstream.plays(payload)
    async with client.get("/api/first") as response:
        assert await response.read() == payload


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "timeout",
    [
        *("0", "-1", "abc", "1e3", "1.5", "%2B5", "+5", "%205", "5ms", "", "30001", "NaN", "0x10", "1_0"),
        *("%D9%A5", "\u0665", "9" * 400, "null", "true", "5%00", "5000&timeout=9000", "%FF"),
    ],
)
@pytest.mark.fault(22, 23, 24)
async def test_anything_but_a_whole_number_in_range_is_400(
    client: Client, upstream: Upstream, route: str, timeout: str
) -> None:
    """The document names the field and the range, and nothing is sent upstream."""
    async with client.get(f"{route}?timeout={timeout}") as response:
        body = await response.json(content_type=None)
    assert response.status == 400
    assert response.content_type == "application/problem+json"
    assert body["code"] == "validation"
    assert body["errors"]["timeout"][0] in (
        "Must be a whole number of milliseconds from 1 to 30000.",
        "Must be given once.",
    )
    assert upstream.calls == 0


@pytest.mark.parametrize(
    "query", ["", "?timeout=30000", "?timeout=4999", "?timeout=5001", "?utm=1&timeout=5000"]
)
@pytest.mark.fault(21, 25, 29)
async def test_a_timeout_in_range_or_none_is_fine(client: Client, query: str) -> None:
    """Parameters that we do not know are ignored."""
    assert (await ask(client, f"/api/first{query}"))[0] == 200


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.fault(25)
async def test_a_timeout_of_one_millisecond_is_answered(
    client: Client, upstream: Upstream, route: str
) -> None:
    """It can hardly succeed, but it is an answer of the contract's."""
    upstream.plays("hang")
    status, _ = await ask(client, f"{route}?timeout=1")
    assert status == {"/api/smart": 503, "/api/within-timeout": 200}.get(route, 500)


@pytest.mark.fault(21, 23)
async def test_without_a_timeout_the_longest_one_holds(serve: Serve, upstream: Upstream) -> None:
    """REQUEST_TIMEOUT_MS is both the maximum and the default."""
    upstream.plays("hang")
    client = await serve(REQUEST_TIMEOUT_MS="60")
    assert (await ask(client, "/api/first"))[1]["code"] == "timeout"
    assert (await ask(client, "/api/first?timeout=61"))[0] == 400


async def test_the_error_document_has_all_its_members(client: Client, upstream: Upstream) -> None:
    """RFC 9457, the older clients' members, the code, and each attempt with its times."""
    upstream.plays(500)
    async with client.get("/api/smart", headers={"X-Request-Id": "test-request-id-12345"}) as response:
        body = await response.json(content_type=None)
    assert response.content_type == "application/problem+json"
    assert {"type", "title", "status", "detail", "instance", "code", "error", "message", "requestId"} <= set(
        body
    )
    assert (body["status"], body["instance"], body["requestId"]) == (
        503,
        "/api/smart",
        "test-request-id-12345",
    )
    first = body["attempts"][0]
    assert (first["attempt"], first["upstream"], first["outcome"]) == (0, "work", "http_error")
    assert first["detail"] == "status 500"
    assert 0 <= first["startedMs"] <= first["endedMs"]


@pytest.mark.fault(18)
async def test_a_caller_who_goes_away_releases_the_upstream(client: Client, upstream: Upstream) -> None:
    """The calls under way are cancelled, and the metrics count a 499."""
    upstream.plays("hang")
    asking = asyncio.ensure_future(ask(client, "/api/all"))
    await upstream.called.wait()
    asking.cancel()
    await asyncio.wait([asking])
    await upstream.gone.wait()
    async with client.get("/metrics") as response:
        text = await response.text()
    assert 'hedgerow_responses_total{reason="caller_gone",route="all",status="499"} 1.0' in text
    assert 'hedgerow_attempts_in_flight{upstream="work"} 0.0' in text
    assert 'hedgerow_requests_in_flight{route="all"} 0.0' in text


async def test_a_fifth_route_and_a_second_upstream_need_no_python(serve: Serve, upstream: Upstream) -> None:
    """They are paragraphs of the route table."""
    table = """
        [upstream.one]
        url = "$WORK_API_URL"
        [upstream.two]
        url = "$WORK_API_URL"
        [[route]]
        name = "fastest"
        path = "/fastest"
        strategy = "first"
        upstream = ["one", "two"]
        on_failure = 502
    """
    client = await serve(table)
    upstream.plays(b'{"anything": []}')
    assert await ask(client, "/fastest?timeout=10000") == (200, {"anything": []})
    assert upstream.calls == 2
    upstream.plays(404)
    assert (await ask(client, "/fastest"))[0] == 502
