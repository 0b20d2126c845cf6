"""One JSON line per request: it tells which and why, and no secret."""

from __future__ import annotations

import io
import json
import logging

import pytest

from server.logs import logging_to_stderr
from tests.server.conftest import Serve, Upstream

CANARY = "canary-7f3a"


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    """The access lines so far, as what they carry."""
    return [vars(record) for record in caplog.records if record.name == "hedgerow.access"]


async def test_a_line_tells_the_story_of_a_request(
    serve: Serve, upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """Id, route, strategy, outcome, and what each attempt did."""
    caplog.set_level(logging.INFO)
    client = await serve()
    upstream.plays(500, b'{"time": 7}')
    async with client.get("/api/smart", headers={"X-Request-Id": "abc"}) as response:
        await response.read()
    [line] = lines(caplog)
    assert (line["requestId"], line["route"], line["strategy"]) == ("abc", "smart", "hedged")
    assert (line["status"], line["outcome"]) == (200, "ok")
    attempts = line["attempts"]
    assert isinstance(attempts, list)
    assert attempts[0]["outcome"] == "http_error"
    assert attempts[0]["detail"] == "status 500"
    assert line["winner"] in (1, 2)


@pytest.mark.parametrize(("mode", "seen"), [("all", [200, 404]), ("errors", [404]), ("off", [])])
async def test_the_mode_chooses(
    serve: Serve, mode: str, seen: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """All requests, those that failed, or none; probes are quiet while all is well."""
    caplog.set_level(logging.INFO)
    client = await serve(ACCESS_LOG=mode)
    for path in ("/health", "/ready", "/metrics", "/", "/nothing"):
        async with client.get(path) as response:
            await response.read()
    assert [line["status"] for line in lines(caplog)] == seen


@pytest.mark.fault(31, 101)
async def test_no_secret_reaches_the_log(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Not from headers, query or body; a malformed request id is not repeated either."""
    caplog.set_level(logging.DEBUG)
    client = await serve()
    headers = {"Authorization": CANARY, "Cookie": f"a={CANARY}", "X-Request-Id": f"{CANARY} {CANARY}"}
    for path in (f"/api/first?token={CANARY}", f"/nothing?token={CANARY}", f"/api/first?timeout={CANARY}"):
        async with client.get(path, headers=headers) as response:
            assert CANARY not in await response.text()
    async with client.post("/api/first", data=CANARY) as response:
        await response.read()
    ours = [vars(record) for record in caplog.records if record.name.startswith("hedgerow")]
    assert len(ours) == 4
    assert CANARY not in repr(ours)


@pytest.mark.fault(31)
def test_a_line_is_one_json_object_whatever_it_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control characters and line separators are escaped; an exception is part of its line."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with logging_to_stderr("info"):
        logging.getLogger("test").info("a\nb\u2028c\x85d\x1b[31m", extra={"path": "/x\r\ny"})
        try:
            raise ValueError("inner")
        except ValueError:
            logging.getLogger("test").exception("failed")
        logging.getLogger("test").debug("not at this level")
    text = stream.getvalue()
    assert text.isascii()
    first, second = (json.loads(line) for line in text.splitlines())
    assert first["message"] == "a\nb\u2028c\x85d\x1b[31m"
    assert (first["level"], first["logger"], first["path"]) == ("INFO", "test", "/x\r\ny")
    assert "ValueError: inner" in second["exc_info"]
