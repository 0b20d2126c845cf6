"""The download API over a real S3 server: the same contract, and links that lead straight to the server."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from yarl import URL

from server.downloads import rescue, work
from server.downloads.objects import object_key
from server.downloads.service import _objects
from server.settings import load_settings
from tests.downloads.conftest import Start
from tests.downloads.places import fetch
from tests.downloads.seaweed import S3Server
from tests.downloads.whole import BASE
from tests.job_store.stores import eventually
from upstream.simulator.files import archive


def settings_for(server: S3Server, **changes: str) -> dict[str, str]:
    """The settings of an operator who has that server."""
    return {
        "S3_ENDPOINT": server.endpoint,
        "S3_ACCESS_KEY_ID": server.access_key_id,
        "S3_SECRET_ACCESS_KEY": server.secret_access_key,
        "S3_FORCE_PATH_STYLE": "true",
        **changes,
    }


async def test_a_job_ends_in_the_bucket_and_its_links_are_the_servers_own(
    start: Start, descriptions: None, s3_server: S3Server
) -> None:
    site = await start(**settings_for(s3_server, S3_BUCKET_NAME="made-at-start"))
    asked = {"file_id": 70000}
    assert (await site.ask("POST", f"{BASE}/check", asked)).told["available"] is False
    job_id = await site.completed(70000)
    answer = await site.ask("POST", f"{BASE}/check", asked)
    assert answer.told == {
        "file_id": 70000,
        "available": True,
        "s3Key": "downloads/70000.zip",
        "size": len(archive(70000)),
    }
    [file] = (await site.get(f"{BASE}/{job_id}")).told["files"]
    assert file["downloadUrl"].startswith(f"{s3_server.endpoint}/made-at-start/downloads/70000.zip?")
    assert (await fetch(file["downloadUrl"])).body == archive(70000)
    part = await fetch(file["downloadUrl"], Range="bytes=0-99")
    assert (part.status, part.body) == (206, archive(70000)[:100])
    assert (await site.get("/health")).told["checks"]["storage"] == "ok"
    assert (await site.get("/objects/downloads/70000.zip")).status == 404


async def test_a_bucket_that_is_missing_is_made_at_the_start_and_not_with_the_first_job(
    start: Start, descriptions: None, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue, "EVERY", 3600.0)
    site = await start(**settings_for(s3_server, S3_BUCKET_NAME="made-without-a-job"))

    async def well() -> bool:
        return (await site.get("/health")).status == 200

    await eventually(well)


async def test_links_are_signed_for_the_address_that_clients_reach(
    start: Start, descriptions: None, s3_server: S3Server
) -> None:
    public = s3_server.endpoint.replace("127.0.0.1", "localhost")
    site = await start(**settings_for(s3_server, S3_PUBLIC_ENDPOINT=public))
    answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70000})
    link = answer.told["downloadUrl"]
    assert link.startswith(f"{public}/downloads/downloads/70000.zip?")
    assert (await fetch(link)).body == archive(70000)
    moved = urlsplit(link)._replace(netloc=urlsplit(s3_server.endpoint).netloc).geturl()
    assert (await fetch(moved)).status == 403, "the name of the host is signed"


async def test_while_the_s3_server_is_away_jobs_are_taken_and_wait(
    start: Start, descriptions: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "pause", lambda look, rng: 0.05)
    monkeypatch.setattr(rescue, "EVERY", 0.05)
    site = await start(**settings_for(S3Server(port=1)))
    health = await site.get("/health")
    assert (health.status, health.told["checks"]["storage"]) == (503, "error")
    answer = await site.ask("POST", f"{BASE}/check", {"file_id": 70000})
    assert (answer.status, answer.told["code"]) == (503, "storage_unavailable")
    assert answer.headers["Retry-After"] == "5"
    job_id = await site.job(70000)
    await site.when(job_id, lambda found: found["runs"] >= 2)
    assert (await site.cancel(job_id)).told["status"] == "cancelled"


KEYS = {"S3_ACCESS_KEY_ID": "the-id", "S3_SECRET_ACCESS_KEY": "the-secret"}


@pytest.mark.parametrize(
    ("given", "where", "region"),
    [
        ({"S3_ENDPOINT": "http://s3.test"}, "http://s3.test/downloads/downloads/", "us-east-1"),
        (
            {"S3_ENDPOINT": "http://s3.test", "S3_PUBLIC_ENDPOINT": "https://cdn.test"},
            "https://cdn.test/downloads/downloads/",
            "us-east-1",
        ),
        (
            {"S3_ENDPOINT": "http://s3.test", "S3_BUCKET_NAME": "files", "S3_FORCE_PATH_STYLE": "false"},
            "http://files.s3.test/downloads/",
            "us-east-1",
        ),
        (
            {"S3_BUCKET_NAME": "files", "S3_REGION": "eu-central-1", "S3_FORCE_PATH_STYLE": "false"},
            "https://files.s3.eu-central-1.amazonaws.com/downloads/",
            "eu-central-1",
        ),
    ],
)
async def test_each_setting_of_s3_shows_in_the_links(
    descriptions: None, tmp_path: Path, given: dict[str, str], where: str, region: str
) -> None:
    """No server is asked: a link is signed by whoever has the keys."""
    async with AsyncExitStack() as stack:
        settings = load_settings({**KEYS, **given})
        objects, local = await _objects(settings, tmp_path, time.time, stack)
        link = URL(await objects.url(object_key(70000), 60, "a.zip"))
    assert local is None
    assert str(link.with_query(None)) == f"{where}70000.zip"
    owner, day, signed_for, *rest = link.query["X-Amz-Credential"].split("/")
    assert (owner, signed_for, rest) == ("the-id", region, ["s3", "aws4_request"])
    assert day.isdigit()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, []),
        ({"REDIS_URL": "redis://127.0.0.1:1"}, ["jobs are in REDIS_URL, but objects in DATA_DIR"]),
        (KEYS, ["neither S3_ENDPOINT nor S3_BUCKET_NAME"]),
        ({"S3_PUBLIC_ENDPOINT": "https://cdn.test"}, ["neither S3_ENDPOINT nor S3_BUCKET_NAME"]),
        ({**KEYS, "REDIS_URL": "redis://127.0.0.1:1", "S3_BUCKET_NAME": "files"}, []),
    ],
)
async def test_who_may_have_meant_s3_and_has_the_data_folder_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, given: dict[str, str], told: list[str]
) -> None:
    async with AsyncExitStack() as stack:
        await _objects(load_settings(given), tmp_path, time.time, stack)
    assert len(caplog.messages) == len(told)
    assert all(words in message for words, message in zip(told, caplog.messages, strict=True))
