"""The rows of the download API's contract, through the whole application: what each route gives."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
import uuid
import zipfile
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from server.downloads import work
from server.downloads.jobs import File, FileState
from server.lifespan import DOWNLOADS, Trial
from tests.downloads.conftest import Start
from tests.downloads.places import Clock, fetch
from tests.downloads.whole import BASE, Files, Site
from tests.server.raw import until
from upstream.simulator.files import archive

NOBODY = str(uuid.uuid4())


async def test_initiate_answers_at_once_with_the_job_and_where_to_go_from_here(slow: Site) -> None:
    answer = await slow.initiate(70000, 70007)
    job_id = answer.told["jobId"]
    assert (answer.status, str(uuid.UUID(job_id))) == (200, job_id)
    assert answer.told == {
        "jobId": job_id,
        "status": "queued",
        "totalFileIds": 2,
        "links": {
            "status": f"{BASE}/status/{job_id}",
            "events": f"{BASE}/subscribe/{job_id}",
            "download": f"{BASE}/{job_id}",
        },
    }
    assert "Location" not in answer.headers
    assert (await slow.get(answer.told["links"]["status"])).status == 200


async def test_who_prefers_not_to_wait_for_initiate_gets_202_and_where_to_look(slow: Site) -> None:
    answer = await slow.initiate(70000, Prefer="respond-async")
    assert (answer.status, answer.told["status"]) == (202, "queued")
    assert answer.headers["Location"] == answer.told["links"]["status"]
    assert answer.headers["Preference-Applied"] == "respond-async"


async def test_who_would_wait_for_initiate_gets_the_end_of_the_job(site: Site) -> None:
    answer = await site.initiate(70000, Prefer="respond-async, wait=20")
    assert (answer.status, answer.told["status"], answer.told["completedFiles"]) == (200, "completed", 1)
    assert answer.headers["Preference-Applied"] == "wait=20"


async def test_a_file_that_is_named_twice_is_one_file(site: Site) -> None:
    answer = await site.initiate(70000, 70007, 70000)
    assert (answer.status, answer.told["totalFileIds"]) == (200, 2)


async def test_check_says_whether_a_file_can_be_had(site: Site) -> None:
    answer = await site.ask("POST", f"{BASE}/check", {"file_id": 70000})
    key = "downloads/70000.zip"
    assert (answer.status, answer.told) == (
        200,
        {"file_id": 70000, "available": True, "s3Key": key, "size": None},
    )
    answer = await site.ask("POST", f"{BASE}/check", {"file_id": 99999})
    assert answer.told == {"file_id": 99999, "available": False, "s3Key": None, "size": None}


async def test_check_knows_the_size_of_a_file_that_was_stored(site: Site) -> None:
    await site.completed(70000)
    answer = await site.ask("POST", f"{BASE}/check", {"file_id": 70000})
    assert answer.told["size"] == len(archive(70000))


async def test_a_source_that_is_not_the_built_in_one_is_not_asked_by_check(slow: Site, files: Files) -> None:
    answer = await slow.ask("POST", f"{BASE}/check", {"file_id": 70000})
    assert (answer.status, answer.told["available"], files.asked.is_set()) == (200, False, False)


async def test_check_fails_on_request_so_that_error_reports_can_be_seen(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await site.ask(
        "POST", f"{BASE}/check?sentry_test=true", {"file_id": 70000}, X_Request_Id="test-request-id-12345"
    )
    assert (answer.status, answer.headers["Content-Type"]) == (500, "application/problem+json")
    assert answer.told["error"]
    assert answer.told["message"]
    assert answer.told["requestId"] == answer.headers["X-Request-Id"] == "test-request-id-12345"
    [logged] = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert logged.name == "hedgerow.server"
    assert logged.exc_info is not None
    assert "test-request-id-12345" in logged.getMessage()
    assert (await site.ask("POST", f"{BASE}/check?sentry_test=false", {"file_id": 70000})).status == 200


async def test_start_waits_for_the_file_and_links_to_it(site: Site) -> None:
    answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70000})
    told = answer.told
    assert answer.status == 200
    assert (told["file_id"], told["status"], told["size"]) == (70000, "completed", len(archive(70000)))
    assert 0 <= told["processingTimeMs"] < 30_000
    assert told["message"]
    assert (await fetch(told["downloadUrl"])).body == archive(70000)


async def test_start_says_why_a_file_cannot_be_had(site: Site) -> None:
    answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70001})
    told = answer.told
    assert (answer.status, told["status"], told["downloadUrl"], told["size"]) == (200, "failed", None, None)
    assert told["message"] == "There is no such file."


async def test_start_waits_for_the_simulated_delay(start: Start) -> None:
    site = await start(
        DOWNLOAD_DELAY_ENABLED="true", DOWNLOAD_DELAY_MIN_MS="200", DOWNLOAD_DELAY_MAX_MS="210"
    )
    answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70000})
    assert answer.told["status"] == "completed"
    assert answer.told["processingTimeMs"] >= 200


async def test_the_word_false_turns_the_simulated_delay_off(start: Start) -> None:
    site = await start(DOWNLOAD_DELAY_ENABLED="false", DOWNLOAD_DELAY_MIN_MS="30000")
    answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70000})
    assert answer.told["status"] == "completed"
    assert answer.told["processingTimeMs"] < 10_000


async def test_a_start_that_takes_too_long_is_a_504_and_its_job_goes_on_to_its_end(
    files: Files, start: Start
) -> None:
    files.hold()
    site = await start(DOWNLOAD_SOURCE_URL=files.url, REQUEST_TIMEOUT_MS="1000")
    began = time.monotonic()
    answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70000})
    assert 0.99 <= time.monotonic() - began < 20
    told = answer.told
    assert (answer.status, told["code"], answer.headers["Content-Type"]) == (
        504,
        "timeout",
        "application/problem+json",
    )
    assert told["links"]["status"] == answer.headers["Location"] == f"{BASE}/status/{told['jobId']}"
    assert int(answer.headers["Retry-After"]) >= 1
    files.open.set()
    assert (await site.ended(told["jobId"]))["status"] == "completed"


async def test_who_prefers_not_to_wait_for_start_gets_202_and_where_to_look(slow: Site) -> None:
    for wish, seconds in (("respond-async", 0.0), ("respond-async, wait=1", 1.0)):
        began = time.monotonic()
        answer = await slow.ask("POST", f"{BASE}/start", {"file_id": 70000}, Prefer=wish)
        assert seconds <= time.monotonic() - began
        assert (answer.status, answer.headers["Location"]) == (202, answer.told["links"]["status"])
        assert answer.headers["Preference-Applied"] == wish
        assert answer.told["status"] in ("queued", "running")


async def test_a_start_that_is_done_before_the_preferred_wait_is_over_answers_with_the_file(
    site: Site,
) -> None:
    answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70000}, Prefer="respond-async, wait=20")
    assert (answer.status, answer.told["status"]) == (200, "completed")


async def test_who_would_wait_for_start_and_takes_no_202_gets_504_when_the_wait_is_over(slow: Site) -> None:
    answer = await slow.ask("POST", f"{BASE}/start", {"file_id": 70000}, Prefer="wait=0")
    assert (answer.status, answer.told["code"]) == (504, "timeout")
    assert answer.headers["Location"] == f"{BASE}/status/{answer.told['jobId']}"
    assert answer.headers["Preference-Applied"] == "wait=0"


async def test_nobody_waits_longer_than_a_request_may_take(files: Files, start: Start) -> None:
    files.hold()
    site = await start(DOWNLOAD_SOURCE_URL=files.url, REQUEST_TIMEOUT_MS="1000")
    file = {"file_id": 70000}
    async with asyncio.timeout(20):
        answers = await asyncio.gather(
            site.initiate(70000, Prefer="wait=3600"),
            site.initiate(70000, Prefer="respond-async, wait=3600"),
            site.ask("POST", f"{BASE}/start", file, Prefer="wait=3600"),
            site.ask("POST", f"{BASE}/start", file, Prefer="respond-async, wait=3600"),
        )
    assert [answer.status for answer in answers] == [200, 202, 504, 202]
    assert [answer.headers["Preference-Applied"] for answer in answers] == [
        "wait=1",
        "respond-async, wait=1",
        "wait=1",
        "respond-async, wait=1",
    ]


async def test_a_job_that_is_queued_has_not_begun_and_has_no_result_yet(start: Start) -> None:
    site = await start(DOWNLOAD_WORKERS="off")
    job_id = await site.job(70000)
    answer = await site.get(f"{BASE}/status/{job_id}")
    told = answer.told
    assert (told["status"], told["startedAt"], told["runs"], told["progress"]) == ("queued", None, 0, 0)
    assert told["files"] == [
        {"fileId": 70000, "status": "queued", "progress": 0, "size": None, "attempts": 0, "error": None}
    ]
    assert int(answer.headers["Retry-After"]) >= 1
    answer = await site.get(f"{BASE}/{job_id}")
    assert (answer.status, answer.told["code"], answer.told["jobStatus"]) == (409, "job_queued", "queued")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_the_status_says_of_each_file_how_far_it_is_and_of_the_job_what_they_come_to(
    start: Start,
) -> None:
    site = await start(DOWNLOAD_WORKERS="off")
    job_id = await site.job(70000, 70007, 70014)
    records = site.app[DOWNLOADS].service.records
    claim = await records.claim(job_id, "a worker")
    assert claim is not None
    await records.update(job_id, claim.run, File(70000, FileState.RUNNING, 29, 85108, 2))
    await records.update(job_id, claim.run, File(70014, FileState.FAILED, 0, None, 1, "It broke."))
    told = await site.status(job_id)
    first, untouched, broken = told["files"]
    assert first == {
        "fileId": 70000,
        "status": "running",
        "progress": 29,
        "size": 85108,
        "attempts": 2,
        "error": None,
    }
    assert (untouched["status"], untouched["progress"], untouched["attempts"]) == ("queued", 0, 0)
    assert (broken["status"], broken["error"]) == ("failed", "It broke.")
    assert (told["status"], told["progress"]) == ("running", 43)
    assert (told["completedFiles"], told["failedFiles"]) == (0, 1)
    async with site.follow(job_id) as events:
        last = [await anext(events) for _ in range(4)][-1]
    assert (last.kind, last.id) == ("file", told["lastEventId"])


async def test_the_status_of_a_job_that_runs_says_how_far_it_is_and_when_to_come_again(
    slow: Site, files: Files
) -> None:
    job_id = await slow.job(70000, 70007)
    await files.asked.wait()
    answer = await slow.get(f"{BASE}/status/{job_id}")
    told = answer.told
    assert (answer.status, told["jobId"], told["status"]) == (200, job_id, "running")
    assert 1 <= int(answer.headers["Retry-After"]) <= 15
    assert answer.headers["Cache-Control"] == "no-store"
    assert (told["totalFileIds"], told["completedFiles"], told["failedFiles"], told["progress"]) == (
        2,
        0,
        0,
        0,
    )
    assert told["endedAt"] is told["expiresAt"] is told["error"] is told["callback"] is None
    created, started = (datetime.fromisoformat(told[name]) for name in ("createdAt", "startedAt"))
    assert created <= started
    assert told["runs"] == 1
    assert [file["fileId"] for file in told["files"]] == [70000, 70007]
    files.open.set()
    await slow.ended(job_id)
    assert "Retry-After" not in (await slow.get(f"{BASE}/status/{job_id}")).headers


async def test_the_status_of_a_job_that_ended_tells_of_each_file_its_attempts_and_errors(site: Site) -> None:
    job_id = await site.job(70000, 70001)
    told = await site.ended(job_id)
    assert (told["status"], told["progress"], told["completedFiles"], told["failedFiles"]) == (
        "completed",
        100,
        1,
        1,
    )
    there, missing = told["files"]
    assert there == {
        "fileId": 70000,
        "status": "completed",
        "progress": 100,
        "size": len(archive(70000)),
        "attempts": 1,
        "error": None,
    }
    assert (missing["status"], missing["attempts"], missing["error"]) == (
        "failed",
        1,
        "There is no such file.",
    )
    assert told["createdAt"] <= told["startedAt"] <= told["endedAt"] < told["expiresAt"]


async def test_a_job_of_which_no_file_can_be_had_has_failed_and_says_why(site: Site) -> None:
    told = await site.ended(await site.job(70001, 70002))
    assert (told["status"], told["error"]) == ("failed", "None of the 2 files can be had.")


@pytest.mark.parametrize("path", ["status/{}", "{}", "subscribe/{}"])
@pytest.mark.fault(95)
async def test_a_job_that_is_not_known_or_no_id_at_all_is_404(site: Site, path: str) -> None:
    known = await site.job(70000)
    for name in (
        NOBODY,
        known.upper(),
        known.replace("-", ""),
        f"{{{known}}}",
        f"urn:uuid:{known}",
        known + "0",
        "abc",
        "%00",
        "ü",
    ):
        answer = await site.get(f"{BASE}/{path.format(name)}")
        assert (answer.status, answer.told["code"]) == (404, "not_found"), name
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert (await site.cancel(NOBODY)).status == (await site.cancel("abc")).status == 404


async def test_the_result_links_to_each_file_which_can_be_had_whole_and_in_parts(site: Site) -> None:
    job_id = await site.completed(70000, 70007)
    answer = await site.get(f"{BASE}/{job_id}")
    told = answer.told
    assert (answer.status, told["jobId"], told["status"]) == (200, job_id, "completed")
    assert answer.headers["Cache-Control"] == "no-store"
    assert 890 < datetime.fromisoformat(told["linksExpireAt"]).timestamp() - time.time() <= 900
    for file in told["files"]:
        body = archive(file["fileId"])
        assert (file["status"], file["size"], file["error"]) == ("completed", len(body), None)
        whole = await fetch(file["downloadUrl"])
        assert (whole.status, whole.headers["Content-Type"], whole.body) == (200, "application/zip", body)
        assert f"{file['fileId']}.zip" in whole.headers["Content-Disposition"]
        assert zipfile.ZipFile(io.BytesIO(whole.body)).testzip() is None
        part = await fetch(file["downloadUrl"], Range="bytes=100-199")
        assert (part.status, part.body) == (206, body[100:200])
        assert part.headers["Content-Range"] == f"bytes 100-199/{len(body)}"


async def test_the_result_says_of_a_file_that_cannot_be_had_why(site: Site) -> None:
    told = (await site.get(f"{BASE}/{await site.completed(70000, 70001)}")).told
    assert [file["status"] for file in told["files"]] == ["completed", "failed"]
    assert told["files"][1]["downloadUrl"] is None
    assert told["files"][1]["error"] == "There is no such file."


@pytest.mark.parametrize("named", ["", "Host:\r\n"])
async def test_who_does_not_name_us_gets_links_to_where_it_has_reached_us(site: Site, named: str) -> None:
    job_id = await site.completed(70000)
    reader, writer = await asyncio.open_connection(*site.url.removeprefix("http://").split(":"))
    writer.write(f"GET {BASE}/{job_id} HTTP/1.0\r\n{named}\r\n".encode())
    told = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    writer.close()
    assert (await fetch(told["files"][0]["downloadUrl"])).body == archive(70000)


async def test_the_result_of_one_file_redirects_to_it_on_request(site: Site) -> None:
    job_id = await site.completed(70000)
    answer = await site.get(f"{BASE}/{job_id}?redirect=true")
    assert (answer.status, answer.headers["Cache-Control"]) == (303, "no-store")
    assert (await fetch(answer.headers["Location"])).body == archive(70000)
    async with site.session.get(f"{site.url}{BASE}/{job_id}?redirect=true") as followed:
        assert (followed.status, await followed.read()) == (200, archive(70000))
    assert (await site.get(f"{BASE}/{job_id}?redirect=false")).status == 200
    several = await site.completed(70000, 70007)
    assert len((await site.get(f"{BASE}/{several}?redirect=true")).told["files"]) == 2


@pytest.mark.fault(34)
async def test_links_begin_with_the_address_that_the_caller_used_or_with_the_public_one(start: Start) -> None:
    site = await start()
    job_id = await site.completed(70000)
    [file] = (await site.get(f"{BASE}/{job_id}", Host="files.example:8443")).told["files"]
    assert file["downloadUrl"].startswith("http://files.example:8443/objects/downloads/70000.zip?")
    public = await start(PUBLIC_URL="https://public.example/")
    [file] = (await public.get(f"{BASE}/{job_id}")).told["files"]
    assert file["downloadUrl"].startswith("https://public.example/objects/downloads/70000.zip?")


async def test_a_job_that_runs_has_no_result_yet(slow: Site, files: Files) -> None:
    job_id = await slow.job()
    await files.asked.wait()
    answer = await slow.get(f"{BASE}/{job_id}")
    assert (answer.status, answer.told["code"], answer.told["jobStatus"]) == (409, "job_running", "running")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_a_job_that_failed_or_was_cancelled_has_no_result(slow: Site, files: Files) -> None:
    cancelled = await slow.job()
    await slow.cancel(cancelled)
    files.open.set()
    failed = await slow.job(70001)
    await slow.ended(failed)
    for job_id, state in ((cancelled, "cancelled"), (failed, "failed")):
        answer = await slow.get(f"{BASE}/{job_id}")
        assert (answer.status, answer.told["code"], answer.told["jobStatus"]) == (409, f"job_{state}", state)
        assert "Retry-After" not in answer.headers
    assert (await slow.get(f"{BASE}/{failed}")).told["detail"] == "There is no such file."


async def test_a_result_that_has_expired_is_gone_and_so_are_its_links(start: Start) -> None:
    wall = Clock(time.time())
    site = await start(Trial(wall=wall), DOWNLOAD_KEEP_MS="3600000", DOWNLOAD_LINK_MS="900000")
    job_id = await site.completed(70000)
    [file] = (await site.get(f"{BASE}/{job_id}")).told["files"]
    wall.now += 901
    assert (await fetch(file["downloadUrl"])).status == 410
    assert (await site.get(f"{BASE}/{job_id}")).status == 200
    wall.now += 3600
    answer = await site.get(f"{BASE}/{job_id}")
    assert (answer.status, answer.told["code"]) == (410, "job_expired")
    assert (await site.status(job_id))["status"] == "expired"
    assert (await site.cancel(job_id)).status == 409


async def test_start_does_not_hand_out_what_has_expired(start: Start) -> None:
    wall = Clock(time.time())
    site = await start(Trial(wall=wall), DOWNLOAD_KEEP_MS="3600000")
    ask = partial(site.ask, "POST", f"{BASE}/start", {"file_id": 70000}, Idempotency_Key="one")
    assert (await ask()).told["status"] == "completed"
    wall.now += 3601
    answer = await ask()
    assert (answer.status, answer.told["code"]) == (410, "job_expired")


async def test_a_job_that_is_queued_can_be_cancelled_and_never_runs(files: Files, start: Start) -> None:
    files.hold()
    site = await start(DOWNLOAD_SOURCE_URL=files.url, DOWNLOAD_JOBS="1")
    running = await site.job(70000)
    await files.asked.wait()
    queued = await site.job(70007)
    answer = await site.cancel(queued)
    assert (answer.status, answer.told["status"], answer.told["startedAt"]) == (200, "cancelled", None)
    files.open.set()
    assert (await site.ended(running))["status"] == "completed"
    after = await site.completed(70014)
    assert [event.kind for event in await site.history(queued)] == ["queued", "cancelled"]
    assert after != queued


async def test_cancelling_a_job_that_runs_hangs_up_the_call_that_it_has_under_way(
    slow: Site, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not only when the run would give its next sign of life."""
    monkeypatch.setattr(work, "RENEWAL", 3600.0)
    job_id = await slow.job(70000, 70007)
    await files.asked.wait()
    answer = await slow.cancel(job_id)
    assert (answer.status, answer.told["status"]) == (200, "cancelled")
    assert {file["status"] for file in answer.told["files"]} == {"cancelled"}
    async with asyncio.timeout(20):
        await files.gone.wait()
        await until(lambda: not files.calls)
    assert (await slow.history(job_id))[-1].kind == "cancelled"


async def test_cancelling_twice_is_the_same_as_once_and_what_has_ended_stays_as_it_is(
    slow: Site, files: Files
) -> None:
    job_id = await slow.job()
    first, second = await slow.cancel(job_id), await slow.cancel(job_id)
    assert (first.status, first.told) == (second.status, second.told)
    files.open.set()
    completed = await slow.completed(70007)
    answer = await slow.cancel(completed)
    assert (answer.status, answer.told["code"]) == (409, "job_completed")
    assert (await slow.status(completed))["status"] == "completed"


async def test_jobs_lists_the_callers_own_newest_first_by_state_and_in_pages(
    slow: Site, files: Files
) -> None:
    ids = [await slow.job(70000 + 7 * number) for number in range(5)]
    await slow.cancel(ids[1])
    listed = (await slow.get(f"{BASE}/jobs")).told
    assert [job["jobId"] for job in listed["jobs"]] == ids[::-1]
    assert listed["next"] is None
    assert listed["jobs"][0]["links"]["status"] == f"{BASE}/status/{ids[4]}"
    assert "files" not in listed["jobs"][0]
    cancelled = (await slow.get(f"{BASE}/jobs?state=cancelled,failed")).told["jobs"]
    assert [job["jobId"] for job in cancelled] == [ids[1]]
    paged: list[str] = []
    page: Any = {"next": ""}
    while (cursor := page["next"]) is not None:
        page = (await slow.get(f"{BASE}/jobs?limit=2" + (f"&cursor={cursor}" if cursor else ""))).told
        assert len(page["jobs"]) <= 2
        paged += [job["jobId"] for job in page["jobs"]]
    assert paged == ids[::-1]


@pytest.mark.fault(95)
async def test_jobs_of_other_clients_are_not_listed(start: Start) -> None:
    site = await start(TRUSTED_PROXIES="127.0.0.1")
    mine = await site.job(70000, X_Forwarded_For="203.0.113.7")
    for other, expected in (("203.0.113.7", [mine]), ("203.0.113.8", [])):
        listed = (await site.get(f"{BASE}/jobs", X_Forwarded_For=other)).told["jobs"]
        assert [job["jobId"] for job in listed] == expected


async def test_who_invents_an_origin_sees_no_more_than_his_own_jobs(site: Site) -> None:
    mine = await site.job(70000, X_Forwarded_For="203.0.113.7")
    listed = (await site.get(f"{BASE}/jobs", X_Forwarded_For="203.0.113.9")).told["jobs"]
    assert [job["jobId"] for job in listed] == [mine]


@pytest.mark.fault(94)
async def test_a_hundred_requests_at_once_with_one_key_make_one_job(site: Site) -> None:
    for number in range(1, 4):
        key = f"order-{number}"
        answers = await asyncio.gather(*(site.initiate(70000, Idempotency_Key=key) for _ in range(100)))
        assert {answer.status for answer in answers} == {200}
        assert len({answer.told["jobId"] for answer in answers}) == 1
        assert len((await site.get(f"{BASE}/jobs")).told["jobs"]) == number


async def test_a_key_that_is_used_again_gives_the_same_job_also_when_that_has_ended(site: Site) -> None:
    job_id = await site.completed(70000, 70007, Idempotency_Key="order-1")
    answer = await site.initiate(70000, 70007, Idempotency_Key="order-1")
    assert (answer.status, answer.told["jobId"], answer.told["status"]) == (200, job_id, "completed")


@pytest.mark.fault(94)
async def test_a_key_that_is_used_with_another_body_is_422(site: Site) -> None:
    await site.job(70000, Idempotency_Key="order-1")
    for answer in (
        await site.initiate(70007, Idempotency_Key="order-1"),
        await site.ask("POST", f"{BASE}/start", {"file_id": 70000}, Idempotency_Key="order-1"),
    ):
        assert (answer.status, answer.told["code"]) == (422, "idempotency_key_reused")


async def test_the_same_key_of_another_client_is_another_key(start: Start) -> None:
    site = await start(TRUSTED_PROXIES="127.0.0.1")
    ids = {
        await site.job(70000, Idempotency_Key="1", X_Forwarded_For=client)
        for client in ("203.0.113.7", "203.0.113.8", "203.0.113.7")
    }
    assert len(ids) == 2


async def test_without_a_key_each_request_makes_a_job(site: Site) -> None:
    assert await site.job(70000) != await site.job(70000)


async def test_a_key_that_is_none_is_refused_by_its_name(site: Site) -> None:
    for key in ("", "a b", "x" * 256, "schlüssel"):
        answer = await site.initiate(70000, Idempotency_Key=key)
        assert (answer.status, list(answer.told["errors"])) == (400, ["Idempotency-Key"]), key


async def test_the_keys_of_start_work_alike(site: Site) -> None:
    for _ in range(2):
        answer = await site.ask("POST", f"{BASE}/start", {"file_id": 70000}, Idempotency_Key="order-1")
        assert answer.told["status"] == "completed"
    assert len((await site.get(f"{BASE}/jobs")).told["jobs"]) == 1


async def test_without_any_setting_jobs_and_files_are_kept_in_the_data_folder(start: Start) -> None:
    """The one test with the embedded job store."""
    site = await start(REDIS_URL="")
    job_id = await site.completed(70000)
    [file] = (await site.get(f"{BASE}/{job_id}")).told["files"]
    assert urlsplit(file["downloadUrl"]).path == "/objects/downloads/70000.zip"
    assert (await fetch(file["downloadUrl"])).status == 200
    assert (await site.get("/health")).told["checks"]["jobs"] == "ok"
