"""The simulated ``work`` upstream: its luck is drawn as told, and it does what was drawn."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from upstream.payloads import work as accepts
from upstream.simulator.app import WORK_PATH, make_app, serve_simulator
from upstream.simulator.latency import FORMS, parse_latency
from upstream.simulator.work import GARBAGE, Mood, WorkModel, override

AT_ONCE = parse_latency("constant:0")


class TestLatency:
    @pytest.mark.parametrize(
        ("text", "seconds"), [("constant:50", 0.05), ("constant:0", 0.0), ("constant:0.5", 0.0005)]
    )
    def test_constant(self, text: str, seconds: float) -> None:
        """Always the same, in milliseconds."""
        draw, rng = parse_latency(text), random.Random(1)
        assert {draw(rng) for _ in range(10)} == {seconds}

    def test_uniform(self) -> None:
        """Between both ends, and all over the range."""
        draw, rng = parse_latency("uniform:100-600"), random.Random(1)
        drawn = [draw(rng) for _ in range(2000)]
        assert 0.1 <= min(drawn) < 0.11
        assert 0.59 < max(drawn) <= 0.6
        assert sum(drawn) / len(drawn) == pytest.approx(0.35, abs=0.01)

    def test_lognormal(self) -> None:
        """The mean and the deviation are those of the latency itself, not of its logarithm."""
        draw, rng = parse_latency("lognormal:5,2"), random.Random(1)
        drawn = [draw(rng) for _ in range(20_000)]
        mean = sum(drawn) / len(drawn)
        deviation = (sum((one - mean) ** 2 for one in drawn) / len(drawn)) ** 0.5
        assert mean == pytest.approx(0.005, rel=0.03)
        assert deviation == pytest.approx(0.002, rel=0.05)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "50",
            "constant",
            "constant:",
            "constant:-1",
            "constant:abc",
            "constant:nan",
            "constant:inf",
            "constant:3600000",
            "uniform:5",
            "uniform:600-100",
            "uniform:1-2-3",
            "uniform:-5-5",
            "lognormal:5",
            "lognormal:0,1",
            "lognormal:1,-1",
            "lognormal:1,2,3",
            "lognormal:1e-200,1000",
            "Constant:5",
            "gamma:1,2",
        ],
    )
    def test_bad_forms(self, text: str) -> None:
        """Anything else is refused with the forms that there are."""
        with pytest.raises(ValueError, match="latency must be") as refused:
            parse_latency(text)
        assert FORMS in str(refused.value)

    def test_a_long_text_is_not_repeated_in_full(self) -> None:
        """The message stays short."""
        with pytest.raises(ValueError, match="latency must be") as refused:
            parse_latency("x" * 10_000)
        assert len(str(refused.value)) < 200


class TestModel:
    @pytest.mark.parametrize("name", ["failure", "invalid", "hang"])
    @pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), float("inf")])
    def test_a_share_out_of_range(self, name: str, share: float) -> None:
        """Each share is from 0 to 1, and the message names it."""
        with pytest.raises(ValueError, match=f"{name} must be from 0 to 1"):
            WorkModel(AT_ONCE, **{name: share})

    def test_shares_that_are_too_many_together(self) -> None:
        """Silence goes first, then failure: asking for nothing but silence needs one setting, not three."""
        model, rng = WorkModel(AT_ONCE, failure=0.5, invalid=0.3, hang=1.0), random.Random(1)
        assert {model.draw(rng)[1] for _ in range(1000)} == {Mood.HANG}

    @pytest.mark.parametrize(
        ("failure", "invalid", "hang"), [(1, 0, 0), (0.5, 0.25, 0.25), (0.33, 0.56, 0.11)]
    )
    def test_shares_that_are_everything_together(self, failure: float, invalid: float, hang: float) -> None:
        """Exactly everything may go wrong, in whatever decimals it is written."""
        model, rng = WorkModel(AT_ONCE, failure, invalid, hang), random.Random(1)
        assert Mood.ANSWER not in {model.draw(rng)[1] for _ in range(1000)}

    def test_the_shares_are_kept(self) -> None:
        """Over 20,000 draws each mood has its share, within a percentage point."""
        model, rng = WorkModel(AT_ONCE, failure=0.1, invalid=0.2, hang=0.3), random.Random(7)
        drawn = Counter(model.draw(rng)[1] for _ in range(20_000))
        shares = {mood: drawn[mood] / 20_000 for mood in Mood}
        wanted = {Mood.FAIL: 0.1, Mood.GARBLE: 0.2, Mood.HANG: 0.3, Mood.ANSWER: 0.4}
        assert shares == pytest.approx(wanted, abs=0.01)

    def test_the_same_seed_is_the_same_luck(self) -> None:
        """Two runs with one seed draw the same."""
        model = WorkModel(parse_latency("uniform:1-9"), 0.2, 0.2, 0.2)
        runs = [[model.draw(rng) for _ in range(50)] for rng in (random.Random(3), random.Random(3))]
        assert runs[0] == runs[1]

    @pytest.mark.parametrize("body", GARBAGE)
    def test_garbage_is_garbage(self, body: bytes) -> None:
        """No invalid body of the simulator is a valid payload by accident."""
        assert accepts(body) is not None


class TestOverride:
    def test_only_what_is_asked_for_changes(self) -> None:
        """The rest stays as configured."""
        model = WorkModel(AT_ONCE, failure=0.1, invalid=0.2, hang=0.3)
        assert override(model, {"failure": "0.5"}) == WorkModel(AT_ONCE, 0.5, 0.2, 0.3)
        assert override(model, {"unknown": "1"}) == model

    def test_the_latency(self) -> None:
        """It is given in the form of the setting."""
        changed = override(WorkModel(AT_ONCE, hang=0.3), {"latency": "constant:20"})
        assert changed.latency(random.Random(1)) == 0.02
        assert changed.hang == 0.3

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ({"failure": "much"}, "failure must be a number from 0 to 1, not 'much'"),
            ({"hang": "2"}, "hang must be from 0 to 1"),
            ({"invalid": "nan"}, "invalid must be from 0 to 1"),
            ({"latency": "fast"}, "latency must be constant:MS"),
        ],
    )
    def test_nonsense_is_named(self, query: dict[str, str], message: str) -> None:
        """Malformed, or out of range."""
        with pytest.raises(ValueError, match=message):
            override(WorkModel(AT_ONCE, hang=0.3), query)


@pytest.fixture
async def client(aiohttp_client: AiohttpClient) -> TestClient[web.Request, web.Application]:
    """A simulator that answers at once, unless it is asked for something else."""
    return await aiohttp_client(make_app(WorkModel(AT_ONCE), random.Random(1)))


class TestApp:
    async def test_it_answers(self, client: TestClient[web.Request, web.Application]) -> None:
        """A 200 with the time that it took, by its own account."""
        response = await client.get(WORK_PATH, params={"latency": "constant:3"})
        assert (response.status, await response.json()) == (200, {"time": 3})

    async def test_it_fails(self, client: TestClient[web.Request, web.Application]) -> None:
        """A 500, even though its body is JSON."""
        response = await client.get(WORK_PATH, params={"failure": "1"})
        assert response.status == 500
        assert accepts(await response.read()) is not None

    async def test_it_garbles(self, client: TestClient[web.Request, web.Application]) -> None:
        """A 200 that claims to be JSON; all kinds of garbage turn up, and nothing else."""
        seen = set()
        for _ in range(100):
            response = await client.get(WORK_PATH, params={"invalid": "1"})
            assert (response.status, response.content_type) == (200, "application/json")
            seen.add(await response.read())
        assert seen == set(GARBAGE)

    @pytest.mark.parametrize("query", [{"failure": "2"}, {"hang": "x"}, {"latency": "soon"}])
    async def test_a_bad_override(
        self, client: TestClient[web.Request, web.Application], query: dict[str, str]
    ) -> None:
        """A 400 that names the value."""
        response = await client.get(WORK_PATH, params=query)
        assert response.status == 400
        assert next(iter(query)) in (await response.json())["error"]

    async def test_a_hanging_request_ends_when_its_caller_goes_away(self) -> None:
        """Nobody waits on in the server: the tasks are back to where they were, with the server still up."""
        async with serve_simulator(WorkModel(AT_ONCE, hang=1.0), random.Random(1)) as url:
            before = asyncio.all_tasks()
            host, port = url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {WORK_PATH} HTTP/1.1\r\nHost: simulator\r\n\r\n".encode())
            async with asyncio.timeout(10):
                while asyncio.all_tasks() <= before:  # noqa: ASYNC110 - the handler has no event
                    await asyncio.sleep(0)
                assert not reader.at_eof()
                writer.close()
                await writer.wait_closed()
                while not asyncio.all_tasks() <= before:  # noqa: ASYNC110
                    await asyncio.sleep(0)

    async def test_it_listens_on_a_port_of_its_own_and_lets_go_of_it(self) -> None:
        """After the block nobody answers there any more."""
        async with serve_simulator(WorkModel(AT_ONCE), random.Random(1)) as url:
            host, port = url.removeprefix("http://").split(":")
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            await writer.wait_closed()
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection(host, int(port))
