"""Every row of the contract of the event API, against the simulator and against an upstream by script."""

from __future__ import annotations

import asyncio
import io
import random
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import orjson
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpClient, AiohttpServer
from yarl import URL

from server.app import ROUTES, create_app
from server.errors import MEDIA_TYPE
from server.routes import breaker_options, load_table
from server.settings import load_settings
from tests.described import described
from tests.server.conftest import Client
from tests.server.test_contract_common import MINIMAL
from upstream.simulator.app import make_app
from upstream.simulator.events import BUSY, EventService
from upstream.simulator.latency import parse_latency
from upstream.simulator.work import WorkModel

Start: TypeAlias = Callable[..., Awaitable[Client]]
EVENT = {"name": "Event 5", "userId": "3"}


class Clock:
    """Time that the test moves, as far as circuits and deadlines look at it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    """The application's clock."""
    return Clock()


@pytest.fixture
def service() -> EventService:
    """The event service of the contract, without bad luck and without the 500 ms."""
    return EventService(random.Random(1), failure=0.0, delay=0.0)


@pytest.fixture
async def front(aiohttp_client: AiohttpClient, aiohttp_server: AiohttpServer, clock: Clock) -> Start:
    """Start our application in front of an upstream application."""

    async def start(upstream: web.Application, **environ: str) -> Client:
        server = await aiohttp_server(upstream)
        base = {"DOWNLOADS": "off", "EVENT_API_BASE_URL": str(server.make_url(""))}
        settings = load_settings({**base, **environ})
        table = load_table(ROUTES.read_text("utf-8"), settings.environ, breaker_options(settings))
        return await aiohttp_client(create_app(settings, table, clock=clock))

    return start


@pytest.fixture
async def client(front: Start, service: EventService) -> Client:
    """Our application in front of the simulator."""
    return await front(make_app(WorkModel(parse_latency("constant:0")), random.Random(1), service))


async def ask(client: Client, path: str) -> tuple[int, Any]:
    """Status and JSON of one GET."""
    async with client.session.get(
        URL(f"{str(client.make_url('')).rstrip('/')}{path}", encoded=True)
    ) as response:
        return response.status, await response.json(content_type=None)


async def add(
    client: Client, event: object = EVENT, **given: Any
) -> tuple[int, Any, web.StreamResponse | Any]:
    """Status, JSON and the response of one POST to ``/addEvent``."""
    async with client.post("/addEvent", **(given or {"json": event})) as response:
        return response.status, await response.json(content_type=None), response


class TestReads:
    async def test_users(self, client: Client) -> None:
        """The upstream's array, with its three users as they are."""
        status, users = await ask(client, "/getUsers")
        assert status == 200
        assert [(one["id"], one["userName"], one["email"], one["events"]) for one in users] == [
            (1, "user1", "hello@gmail.com", ["event-1", "event-3"]),
            (2, "user2", "hello2@gmail.com", ["event-2"]),
            (2, "user3", "hello3@gmail.com", ["event-4"]),
        ]

    async def test_events(self, client: Client) -> None:
        """The upstream's array, with its four events as they are."""
        status, events = await ask(client, "/getEvents")
        assert status == 200
        assert [(one["id"], one["name"], one["userId"]) for one in events] == [
            (1, "Event 1", 1),
            (1, "Event 2", 2),
            (1, "Event 1", 1),
            (1, "Event 4", 3),
        ]
        assert {one["details"] for one in events} == {"This is the first event"}

    async def test_the_document_lets_the_event_service_say_more(
        self, client: Client, service: EventService
    ) -> None:
        """What it says is handed on as it came, so no member is too much."""
        for listing, held in (("/getUsers", service.users), ("/getEvents", service.events)):
            for one in held.values():
                one["more"] = "than we know"
            status, body = await ask(client, listing)
            assert body[0]["more"] == "than we know"
            document = (await ask(client, "/openapi.json"))[1]
            described(document, listing, "get", (status, "application/json", body))

    @pytest.mark.fault(41)
    async def test_a_network_error_is_tried_once_more(self, client: Client, service: EventService) -> None:
        """The caller does not see that the first call was dropped."""
        drops = iter([True, False])
        service._rng.random = lambda: 0.0 if next(drops) else 1.0  # type: ignore[method-assign]
        service.failure = 0.5
        assert (await ask(client, "/getUsers"))[0] == 200
        assert service.calls["getUsers"] == 2

    async def test_two_network_errors_are_a_502(self, client: Client, service: EventService) -> None:
        """Once more, and not twice; the document names no host of ours."""
        service.failure = 1.0
        status, body = await ask(client, "/getUsers")
        assert (status, body["code"], service.calls["getUsers"]) == (502, "no_success", 2)
        assert "127.0.0.1" not in str(body)

    async def test_an_upstream_that_hangs_is_a_504(self, client: Client, service: EventService) -> None:
        """At the caller's timeout."""
        service.delay = 3600
        status, body = await ask(client, "/getEventsByUserId/1?timeout=50")
        assert (status, body["code"]) == (504, "timeout")


class TestEventsOfUser:
    async def test_in_the_order_of_the_users_list(self, client: Client, service: EventService) -> None:
        """Whatever comes first."""
        service.users["1"]["events"] = ["event-3", "event-2", "event-1", "event-4"]
        for n, event in enumerate(service.events.values()):
            event["name"] = f"n{n}"
        status, events = await ask(client, "/getEventsByUserId/1")
        assert (status, [one["name"] for one in events]) == (200, ["n2", "n1", "n0", "n3"])

    async def test_an_unknown_user_is_404(self, client: Client) -> None:
        """The upstream says so with an empty body."""
        status, body = await ask(client, "/getEventsByUserId/99")
        assert (status, body["detail"]) == (404, "There is no such user.")

    async def test_a_user_without_events_has_an_empty_list(
        self, client: Client, service: EventService
    ) -> None:
        """And nothing is fetched."""
        service.users["1"]["events"] = []
        assert await ask(client, "/getEventsByUserId/1") == (200, [])
        assert "getEventById" not in service.calls

    @pytest.mark.parametrize("events", [10, 50])
    async def test_they_are_fetched_in_parallel(self, front: Start, events: int) -> None:
        """All calls are under way before the first is answered, so they take one event's time."""
        upstream = ByScript({"1": [f"e{n}" for n in range(events)]})
        client = await front(upstream.app)
        asking = asyncio.ensure_future(ask(client, "/getEventsByUserId/1"))
        await upstream.under_way(events)
        upstream.gate.set()
        status, body = await asking
        assert (status, [one["name"] for one in body]) == (200, [f"e{n}" for n in range(events)])

    async def test_no_more_than_the_setting_at_once(self, front: Start) -> None:
        """EVENT_FETCH_CONCURRENCY bounds one request."""
        upstream = ByScript({"1": [f"e{n}" for n in range(20)]})
        client = await front(upstream.app, EVENT_FETCH_CONCURRENCY="4")
        asking = asyncio.ensure_future(ask(client, "/getEventsByUserId/1"))
        await upstream.under_way(4)
        upstream.gate.set()
        assert (await asking)[0] == 200
        assert upstream.most == 4

    async def test_one_that_fails_ends_it_and_cancels_the_rest(self, front: Start) -> None:
        """Fail-fast: nobody waits for the others."""
        upstream = ByScript({"1": ["slow", "slow", "broken"]})
        client = await front(upstream.app)
        status, body = await ask(client, "/getEventsByUserId/1")
        assert (status, body["code"]) == (502, "no_success")
        await upstream.abandoned(2)

    async def test_an_event_that_the_upstream_has_lost_fails_the_whole(
        self, client: Client, service: EventService
    ) -> None:
        """An empty body is no event."""
        del service.events["event-3"]
        assert (await ask(client, "/getEventsByUserId/1"))[0] == 502

    @pytest.mark.parametrize(
        "user",
        [
            "..%2f",
            "..%2f..%2fgetUsers",
            "%00",
            "a%20b",
            "a%2Fb",
            "%2e%2e",
            "%C3%A9",
            "a" * 65,
            "1;2",
            "%ff",
            "1%0A",
        ],
    )
    @pytest.mark.fault(28)
    async def test_a_user_id_that_cannot_be_one(
        self, client: Client, service: EventService, user: str
    ) -> None:
        """400, and nothing is sent upstream."""
        status, body = await ask(client, f"/getEventsByUserId/{user}")
        assert (status, list(body["errors"])) == (400, ["id"])
        assert service.calls == {}

    async def test_a_user_id_of_ten_kilobytes_is_refused(self, client: Client) -> None:
        """By the limit on a request line."""
        async with client.get("/getEventsByUserId/" + "a" * 10_000) as response:
            assert response.status == 400

    @pytest.mark.parametrize("listed", [["../x", "a/b"], [".."], ["a\n"], [None], "event-1", {"a": 1}, [[]]])
    async def test_a_list_that_cannot_be_one(
        self, client: Client, service: EventService, listed: Any
    ) -> None:
        """What the upstream says is not trusted either."""
        service.users["1"]["events"] = listed
        status, body = await ask(client, "/getEventsByUserId/1")
        assert (status, body["code"]) == (502, "invalid_payload")
        assert "getEventById" not in service.calls


class ByScript:
    """An event service that holds every event back until the gate opens, and notes what is under way."""

    def __init__(self, users: dict[str, list[str]]) -> None:
        self.users = users
        self.gate = asyncio.Event()
        self.now = self.most = self.given_up = 0
        self.changed = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_get("/getUserById/{id}", self.user)
        self.app.router.add_get("/getEventById/{id}", self.event)

    async def user(self, request: web.Request) -> web.Response:
        return web.json_response({"events": self.users[request.match_info["id"]]})

    async def event(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        self.now += 1
        self.most = max(self.most, self.now)
        self.changed.set()
        try:
            if name == "broken":
                await self.under_way(3)
                return web.json_response({}, status=500)
            await self.gate.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            self.changed.set()
            raise
        self.now -= 1
        return web.json_response({"name": name})

    async def under_way(self, calls: int) -> None:
        """Wait until that many events are being fetched at once."""
        while self.most < calls:
            self.changed.clear()
            await self.changed.wait()

    async def abandoned(self, calls: int) -> None:
        """Wait until that many callers have gone away."""
        while self.given_up < calls:
            self.changed.clear()
            await self.changed.wait()


class TestAddEvent:
    async def test_it_is_stored_under_an_id_of_ours(self, client: Client, service: EventService) -> None:
        """The user's list has it too; the answer is the upstream's."""
        assert (await add(client))[:2] == (200, {"success": True})
        [new] = set(service.events) - {"event-1", "event-2", "event-3", "event-4"}
        assert str(uuid.UUID(new)) == new
        assert service.users["3"]["events"] == ["event-4", new]
        assert service.events[new] == {"id": new, **EVENT}

    async def test_two_adds_at_once_are_two_events(self, client: Client, service: EventService) -> None:
        """A time stamp as an id let one overwrite the other."""
        await asyncio.gather(*(add(client) for _ in range(5)))
        assert len(service.events) == 9

    async def test_an_upstream_503_passes_on_with_its_fields(self, client: Client) -> None:
        """The sixth call of the pattern."""
        for _ in range(5):
            assert (await add(client))[0] == 200
        status, body, response = await add(client)
        assert status == 503
        assert response.content_type == "application/problem+json"
        assert {name: body[name] for name in BUSY} == BUSY
        assert body["code"] == "upstream_unavailable"

        described((await ask(client, "/openapi.json"))[1], "/addEvent", "post", (503, MEDIA_TYPE, body))

    async def test_it_is_never_tried_twice(self, front: Start) -> None:
        """A dropped POST may have been done."""
        calls = 0

        async def drop(request: web.Request) -> web.Response:
            nonlocal calls
            calls += 1
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        app = web.Application()
        app.router.add_post("/addEvent", drop)
        client = await front(app)
        assert (await add(client))[0] == 502
        assert calls == 1

    async def test_an_unknown_user_is_the_upstreams_500(self, client: Client) -> None:
        """Told as a 502 with what the upstream said."""
        status, body, _ = await add(client, {"name": "a", "userId": "nobody"})
        assert (status, body["attempts"][0]["detail"]) == (502, "status 500")

    @pytest.mark.parametrize(
        ("event", "fields"),
        [
            ({}, ["name", "userId"]),
            ({"name": "", "userId": ""}, ["name", "userId"]),
            ({"name": 5, "userId": 3}, ["name", "userId"]),
            ({"name": None, "userId": True}, ["name", "userId"]),
            ({"name": "a", "userId": "1", "id": "mine"}, ["id"]),
            ([], ["body"]),
            ("text", ["body"]),
            (None, ["body"]),
        ],
    )
    @pytest.mark.fault(30)
    async def test_a_body_that_is_wrong_names_each_field(
        self, client: Client, service: EventService, event: object, fields: list[str]
    ) -> None:
        """400, and nothing is sent upstream."""
        status, body, response = await add(client, data=orjson.dumps(event), headers=JSON)
        assert (status, body["code"], sorted(body["errors"])) == (400, "validation", fields)
        assert response.content_type == "application/problem+json"
        assert service.calls == {}

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"{",
            b"NaN",
            b'{"name": NaN, "userId": "1"}',
            b'{"name": "\xff", "userId": "1"}',
            b'{"name": "\\ud800", "userId": "1"}',
            b"[" * 100_000,
            b'{"a":' * 100_000,
            "\ufeff{}".encode(),
            '{"name": "a", "userId": "1"}'.encode("utf-16"),
        ],
    )
    @pytest.mark.fault(30)
    async def test_a_body_that_is_no_json(self, client: Client, service: EventService, raw: bytes) -> None:
        """400, whatever its depth."""
        status, body, _ = await add(client, data=raw, headers=JSON)
        assert (status, body["code"]) == (400, "invalid_json")
        assert service.calls == {}

    @pytest.mark.fault(11)
    async def test_a_huge_body_is_413(self, client: Client, service: EventService) -> None:
        """Over 1 MiB, with a length and without."""

        async def endless() -> Any:
            for _ in range(40):
                yield b" " * 64 * 1024

        for data in (io.BytesIO(b" " * 2_000_000), endless()):
            async with client.post("/addEvent", data=data, headers=JSON) as response:
                assert response.status == 413
                assert (await response.json(content_type=None))["code"] == "too_large"
        assert service.calls == {}

    @pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "application/xml"])
    async def test_another_media_type_is_415(self, client: Client, service: EventService, media: str) -> None:
        """JSON only."""
        status, body, _ = await add(client, data=b"{}", headers={"Content-Type": media})
        assert (status, body["code"]) == (415, "unsupported_media_type")
        assert service.calls == {}


JSON = {"Content-Type": "application/json"}


class TestCircuit:
    async def open_it(self, client: Client) -> None:
        """Five adds succeed, three fail."""
        assert [(await add(client))[0] for _ in range(8)] == [200] * 5 + [503] * 3

    async def test_closed_open_half_open_closed(
        self, client: Client, service: EventService, clock: Clock
    ) -> None:
        """The whole life of an outage, with the contract's body while it is open."""
        await self.open_it(client)
        calls = service.calls["addEvent"]
        status, body, response = await add(client)
        assert status == 503
        retry_after = body.pop("retryAfter")
        assert 5 <= retry_after <= 11  # ten and a tenth, less what this machine takes
        assert response.headers["Retry-After"] == str(retry_after)
        assert body["success"] is False
        assert body["error"] == "Service temporarily unavailable"
        assert body["message"] == "Event service is currently experiencing issues. Please try again later."
        assert body["circuitBreakerState"] == "OPEN"
        assert body["code"] == "circuit_open"
        assert service.calls["addEvent"] == calls
        whole = {**body, "retryAfter": retry_after}
        described((await ask(client, "/openapi.json"))[1], "/addEvent", "post", (503, MEDIA_TYPE, whole))
        _, ready = await ask(client, "/ready")
        circuits = ready["upstreams"]["events"]["circuits"]
        assert circuits["addEvent"]["state"] == "open"
        assert 5 <= circuits["addEvent"]["secondsToProbe"] <= 11

        clock.ahead = 11.5
        assert (await ask(client, "/ready"))[1]["upstreams"]["events"]["circuits"]["addEvent"]["state"] == (
            "half_open"
        )
        service.reset()
        assert (await add(client))[0] == 200
        _, ready = await ask(client, "/ready")
        assert ready["upstreams"]["events"]["circuits"]["addEvent"]["state"] == "closed"

    async def test_a_failed_probe_doubles_the_rest(self, client: Client, clock: Clock) -> None:
        """One call goes through, fails, and it is open for about 20 s."""
        await self.open_it(client)
        clock.ahead = 11.5
        assert (await add(client))[1]["code"] == "upstream_unavailable"
        assert 13 <= (await add(client))[1]["retryAfter"] <= 22

    async def test_a_request_for_many_events_closes_the_circuit_too(self, front: Start, clock: Clock) -> None:
        """Its first event is the probe, and is not given up because the second was refused."""
        broken = True

        async def user(request: web.Request) -> web.Response:
            return web.json_response({"events": ["a", "b", "c"]})

        async def event(request: web.Request) -> web.Response:
            return web.json_response({"name": "x"}, status=500 if broken else 200)

        app = web.Application()
        app.router.add_get("/getUserById/{id}", user)
        app.router.add_get("/getEventById/{id}", event)
        client = await front(app)
        while (await ask(client, "/getEventsByUserId/1"))[1]["code"] != "circuit_open":
            pass
        broken = False
        clock.ahead = 11.5
        assert (await ask(client, "/getEventsByUserId/1"))[1]["code"] == "circuit_open"
        status, events = await ask(client, "/getEventsByUserId/1")
        assert (status, len(events)) == (200, 3)

    async def test_a_broken_write_leaves_the_reads_alone(self, client: Client) -> None:
        """Each operation has its own circuit."""
        await self.open_it(client)
        assert (await ask(client, "/getUsers"))[0] == 200
        assert (await ask(client, "/getEventsByUserId/1"))[0] == 200

    async def test_metrics_tell_the_state(self, client: Client) -> None:
        """State, transitions, refusals, and the time to the next probe."""
        await self.open_it(client)
        await add(client)
        async with client.get("/metrics") as response:
            text = await response.text()
        where = 'operation="addEvent",upstream="events"'
        assert f"hedgerow_circuit_state{{{where}}} 2.0" in text
        assert f"hedgerow_circuit_refusals_total{{{where}}} 1.0" in text
        assert (
            'hedgerow_circuit_transitions_total{operation="addEvent",to="open",upstream="events"} 1.0' in text
        )
        assert f"hedgerow_circuit_seconds_to_probe{{{where}}} " in text
        assert 'outcome="circuit_open",route="addEvent"' in text

    async def test_the_settings_are_the_operators(self, front: Start, service: EventService) -> None:
        """One failure may be enough, and the rest may be short."""
        app = make_app(WorkModel(parse_latency("constant:0")), random.Random(1), service)
        client = await front(
            app, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1", CIRCUIT_BREAKER_RESET_TIMEOUT_MS="50000"
        )
        service.down = True
        assert (await ask(client, "/getUsers"))[0] == 502
        status, body = await ask(client, "/getUsers")
        assert status == 503
        assert 45 <= body["retryAfter"] <= 55

    @pytest.mark.fault(69)
    async def test_four_hundreds_of_the_upstream_do_not_open_it(self, front: Start) -> None:
        """They are its word on the request."""

        async def refuse(request: web.Request) -> web.Response:
            return web.json_response({}, status=404)

        app = web.Application()
        app.router.add_get("/getUsers", refuse)
        client = await front(app)
        codes = [(await ask(client, "/getUsers"))[1]["code"] for _ in range(10)]
        assert codes == ["no_success"] * 10


async def test_without_an_event_upstream_there_are_no_event_routes(aiohttp_client: AiohttpClient) -> None:
    """A route table without ``[upstream.events]`` serves the rest."""
    client = await aiohttp_client(create_app(load_settings({"DOWNLOADS": "off"}), load_table(MINIMAL, {})))
    assert (await ask(client, "/getUsers"))[0] == 404
