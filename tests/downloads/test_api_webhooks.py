"""Webhooks through the whole application: what a receiver gets, and what becomes of its answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from standardwebhooks import Webhook

from server.lifespan import DOWNLOADS, Trial
from server.webhooks import schedule
from server.webhooks.signing import new_secret
from tests.downloads.conftest import Start
from tests.downloads.whole import BASE, SECRET, Files, Receiver, Site, receiver
from tests.webhooks.forms import urls


@asynccontextmanager
async def told_of(start: Start, *script: int, **environ: str) -> AsyncIterator[tuple[Site, Receiver]]:
    """A server, and a receiver that answers by *script*, whom it may reach."""
    async with receiver(*script) as found:
        yield await start(Trial(policy=found.policy), **environ), found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule of three attempts, one after the other."""
    monkeypatch.setattr(schedule, "DELAYS", (0, 0, 0))


async def test_the_reference_library_verifies_what_a_receiver_gets(start: Start) -> None:
    async with told_of(start) as (site, found):
        job_id = await site.job(70000, 70001, callback=found.url)
        assert (await site.callback(job_id, "delivered")) == {
            "status": "delivered",
            "attempts": 1,
            "detail": None,
        }
        [posted] = found.posted
        assert posted.headers["Content-Type"] == "application/json"
        verified = Webhook(SECRET).verify(posted.body, posted.headers)
        assert verified == json.loads(posted.body)
        status = await site.status(job_id)
        assert verified["type"] == "download.completed"
        assert verified["timestamp"] == status["endedAt"]
        told = verified["data"]
        assert (told["jobId"], told["status"], told["completedFiles"], told["failedFiles"]) == (
            job_id,
            "completed",
            1,
            1,
        )
        assert told["links"]["download"] == f"{BASE}/{job_id}"


async def test_webhook_stream_and_status_name_the_last_event_alike(start: Start) -> None:
    async with told_of(start) as (site, found):
        job_id = await site.job(70000, callback=found.url)
        await site.callback(job_id, "delivered")
        last = (await site.history(job_id))[-1].id
        assert (await site.status(job_id))["lastEventId"] == last
        assert json.loads(found.posted[0].body)["data"]["eventId"] == last
        assert found.posted[0].headers["webhook-id"] == f"{job_id}_{last}"


async def test_jobs_that_failed_or_were_cancelled_are_told_too(files: Files, start: Start) -> None:
    files.hold()
    async with told_of(start, DOWNLOAD_SOURCE_URL=files.url) as (site, found):
        cancelled = await site.job(70000, callback=found.url)
        await site.cancel(cancelled)
        await site.callback(cancelled, "delivered")
        files.open.set()
        failed = await site.job(70001, callback=found.url)
        await site.callback(failed, "delivered")
        told = [json.loads(one.body) for one in found.posted]
        assert [(one["type"], one["data"]["jobId"]) for one in told] == [
            ("download.cancelled", cancelled),
            ("download.failed", failed),
        ]
        assert told[1]["data"]["error"] == "There is no such file."


async def test_a_receiver_that_fails_is_told_again_the_same_under_the_same_id(
    start: Start, impatient: None
) -> None:
    async with told_of(start, 500, 503, 200) as (site, found):
        job_id = await site.job(70000, callback=found.url)
        assert (await site.callback(job_id, "delivered"))["attempts"] == 3
        assert len({one.headers["webhook-id"] for one in found.posted}) == 1
        assert len({one.body for one in found.posted}) == 1
        for one in found.posted:
            Webhook(SECRET).verify(one.body, one.headers)


async def test_an_answer_to_the_end_that_was_undone_does_not_settle_the_next_one(
    files: Files, start: Start
) -> None:
    files.hold()
    async with told_of(start, DOWNLOAD_SOURCE_URL=files.url) as (site, found):
        found.open.clear()
        job_id = await site.job(70000, callback=found.url)
        await site.cancel(job_id)
        await found.asked.wait()
        service = site.app[DOWNLOADS].service
        job = await service.records.revive(job_id)
        assert job is not None
        await service.jobs.put(job.id, job.client)
        files.open.set()
        await site.ended(job_id)
        found.open.set()
        await site.callback(job_id, "delivered")
        told = [json.loads(one.body)["type"] for one in found.posted]
        assert told == ["download.cancelled", "download.completed"]


@pytest.mark.fault(97)
async def test_a_receiver_that_fails_for_good_is_given_up_and_the_status_says_why(
    start: Start, impatient: None
) -> None:
    async with told_of(start, 500) as (site, found):
        job_id = await site.job(70000, callback=found.url)
        assert (await site.callback(job_id, "given_up")) == {
            "status": "given_up",
            "attempts": 3,
            "detail": "The receiver answered 500.",
        }
        assert len(found.posted) == 3
        assert (await site.status(job_id))["status"] == "completed"


async def test_a_receiver_that_is_gone_is_told_no_more(start: Start, impatient: None) -> None:
    async with told_of(start, 410) as (site, found):
        job_id = await site.job(70000, callback=found.url)
        assert (await site.callback(job_id, "disabled"))["attempts"] == 1
        await site.callback(await site.job(70000, callback=found.url), "disabled")
        assert len(found.posted) == 2


async def test_while_secrets_change_a_webhook_verifies_with_both(start: Start) -> None:
    new = new_secret()
    async with told_of(start, WEBHOOK_SECRETS=f"{new},{SECRET}") as (site, found):
        await site.callback(await site.job(70000, callback=found.url), "delivered")
        for secret in (new, SECRET):
            Webhook(secret).verify(found.posted[0].body, found.posted[0].headers)


@pytest.mark.fault(98)
async def test_an_address_that_is_not_public_is_refused_with_one_text_for_all(site: Site) -> None:
    told = set()
    forms = [url for url in urls(443) if url.isprintable() and 1 <= len(url) <= 2048]
    assert len(forms) >= 150
    for url in forms:
        answer = await site.ask("POST", f"{BASE}/initiate", {"file_ids": [70000], "callbackUrl": url})
        assert answer.status == 400, url
        told.add(json.dumps(answer.told["errors"]))
    assert told == {json.dumps({"callbackUrl": ["Must be a public https:// URL."]})}
    assert (await site.get(f"{BASE}/jobs")).told["jobs"] == []


@pytest.mark.parametrize(
    ("leave", "taken", "refused"),
    [
        (
            "off",
            ["https://example.com/hook", "https://example.com:8443/hook"],
            ["http://example.com/hook", "http://example.com:8080/hook", "https://example.com:8080/hook"],
        ),
        (
            "on",
            ["https://example.com/hook", "http://example.com/hook", "http://example.com:8080/hook"],
            ["http://127.0.0.1/hook", "http://10.0.0.1:8080/hook", "http://example.com:6379/hook"],
        ),
    ],
)
async def test_a_callback_without_tls_is_taken_only_with_the_operators_leave(
    start: Start, leave: str, taken: list[str], refused: list[str]
) -> None:
    """Nobody works on the jobs, so nobody is called."""
    site = await start(WEBHOOK_HTTP=leave, DOWNLOAD_WORKERS="off")
    for url in taken:
        await site.job(70000, callback=url)
    for url in refused:
        answer = await site.ask("POST", f"{BASE}/initiate", {"file_ids": [70000], "callbackUrl": url})
        assert (answer.status, list(answer.told["errors"])) == (400, ["callbackUrl"]), url


async def test_the_servers_own_address_is_refused_although_its_network_is_allowed(start: Start) -> None:
    async with receiver() as found:
        port = next(iter(found.policy.ports))
        site = await start(Trial(policy=found.policy), PORT=str(port))
        answer = await site.ask("POST", f"{BASE}/initiate", {"file_ids": [70000], "callbackUrl": found.url})
        assert (answer.status, list(answer.told["errors"])) == (400, ["callbackUrl"])


async def test_a_callback_that_is_no_text_is_refused_by_its_name(site: Site) -> None:
    for url in (1, True, [70000], {"": 1}, "", "https://example.com/" + "a" * 2048):
        answer = await site.ask("POST", f"{BASE}/initiate", {"file_ids": [70000], "callbackUrl": url})
        assert (answer.status, list(answer.told["errors"])) == (400, ["callbackUrl"]), url


async def test_who_asks_for_a_job_again_with_another_callback_has_used_the_key_before(start: Start) -> None:
    async with told_of(start) as (site, found):
        await site.job(70000, callback=found.url, Idempotency_Key="1")
        body = {"file_ids": [70000], "callbackUrl": f"{found.url}?2"}
        assert (await site.ask("POST", f"{BASE}/initiate", body, Idempotency_Key="1")).status == 422
