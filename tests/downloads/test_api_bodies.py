"""What callers get wrong: every form of it is a 4xx that names the field and its range, and makes no job."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from tests.downloads.whole import BASE, Answer, Site

JSON = "application/json"
RANGE = "from 10000 to 100000000"
NOT_IDS: list[object] = [
    100,
    9_999,
    100_000_001,
    -70000,
    0,
    2**63,
    2**64,
    10**30,
    70000.0,
    70000.5,
    1e400,
    "70000",
    "",
    True,
    False,
    None,
    [],
    [70000],
    {},
]


def refused(answer: Answer, status: int = 400) -> Any:
    """The problem document of an answer of that status."""
    assert answer.status == status, answer.body
    assert answer.headers["Content-Type"] == "application/problem+json"
    told = answer.told
    assert told["status"] == status
    assert told["requestId"] == answer.headers["X-Request-Id"]
    return told


async def send(site: Site, path: str, raw: bytes, content_type: str | None = JSON) -> Answer:
    """*raw* as the body of a POST."""
    headers = {"Content-Type": content_type} if content_type else {}
    skip = () if content_type else ("Content-Type",)
    async with site.session.post(
        f"{site.url}{BASE}/{path}", data=io.BytesIO(raw), headers=headers, skip_auto_headers=skip
    ) as response:
        return Answer(response.status, response.headers, await response.read())


async def listed(site: Site) -> int:
    """How many jobs there are."""
    return len((await site.get(f"{BASE}/jobs")).told["jobs"])


async def test_an_id_that_is_none_is_named_with_its_place_in_the_list_and_the_range(site: Site) -> None:
    for wrong in NOT_IDS:
        raw = json.dumps({"file_ids": [70000, wrong]}).replace("Infinity", "1e400").encode()
        told = refused(await send(site, "initiate", raw))
        if wrong == float("inf"):
            assert told["code"] == "invalid_json"
            continue
        assert list(told["errors"]) == ["file_ids.1"], wrong
        assert RANGE in told["errors"]["file_ids.1"][0], wrong
        assert RANGE in told["detail"]
    assert await listed(site) == 0


@pytest.mark.parametrize("path", ["check", "start"])
async def test_a_single_id_that_is_none_is_named_with_the_range(site: Site, path: str) -> None:
    for wrong in NOT_IDS:
        if wrong == float("inf"):
            continue
        told = refused(await site.ask("POST", f"{BASE}/{path}", {"file_id": wrong}))
        assert list(told["errors"]) == ["file_id"], wrong
        assert RANGE in told["errors"]["file_id"][0], wrong
    assert list(refused(await site.ask("POST", f"{BASE}/{path}", {}))["errors"]) == ["file_id"]
    assert await listed(site) == 0


async def test_a_list_names_one_to_a_thousand_files(site: Site) -> None:
    for count in (0, 1001):
        told = refused(await site.initiate(*range(70000, 70000 + count)))
        assert told["errors"] == {"file_ids": ["Must name 1 to 1000 files."]}


async def test_too_many_ids_are_refused_without_being_looked_at(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a million in one body had kept the server busy for seconds."""

    def looked_at(*_: object, **__: object) -> None:
        pytest.fail("an id was looked at")

    monkeypatch.setattr("marshmallow.fields.Integer.deserialize", looked_at)
    told = refused(await send(site, "initiate", b'{"file_ids":[' + b"1," * 400_000 + b"1]}"))
    assert told["errors"] == {"file_ids": ["Must name 1 to 1000 files."]}


async def test_a_name_that_is_no_field_is_repeated_in_part(site: Site) -> None:
    name = "x" * 500_000
    answer = await send(site, "initiate", json.dumps({"file_ids": [70000], name: 1}).encode())
    assert refused(answer)["errors"] == {"x" * 100: ["Unknown field."]}
    assert len(answer.body) < 1000
    for wrong in ("70000", 70000, {"0": 70000}, None, True):
        told = refused(await site.ask("POST", f"{BASE}/initiate", {"file_ids": wrong}))
        assert list(told["errors"]) == ["file_ids"], wrong
    assert list(refused(await site.ask("POST", f"{BASE}/initiate", {}))["errors"]) == ["file_ids"]
    assert await listed(site) == 0


async def test_the_least_and_the_most_that_is_allowed_is_taken(site: Site) -> None:
    for file_ids in ([10000], [100_000_000], range(70000, 71000)):
        answer = await site.initiate(*file_ids)
        assert (answer.status, answer.told["totalFileIds"]) == (200, len(file_ids))


async def test_a_field_that_is_not_known_is_refused_by_its_name(site: Site) -> None:
    told = refused(await site.ask("POST", f"{BASE}/initiate", {"file_ids": [70000], "fileIds": [70000]}))
    assert list(told["errors"]) == ["fileIds"]
    for path in ("check", "start"):
        told = refused(await site.ask("POST", f"{BASE}/{path}", {"file_id": 70000, "priority": 1}))
        assert list(told["errors"]) == ["priority"]
    assert await listed(site) == 0


async def test_a_thousand_wrong_ids_are_a_short_answer(site: Site) -> None:
    answer = await site.initiate(*range(1000))
    told = refused(answer)
    assert "file_ids.0" in told["errors"]
    assert len(answer.body) < 10_000


@pytest.mark.parametrize("path", ["initiate", "check", "start"])
async def test_a_body_that_is_no_json_object_is_400(site: Site, path: str) -> None:
    for raw, code in (
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b'{"file_id": 70000}}', "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"null", "validation"),
        (b"[70000]", "validation"),
        (b'"70000"', "validation"),
    ):
        assert refused(await send(site, path, raw))["code"] == code, raw[:20]


@pytest.mark.parametrize("path", ["initiate", "check", "start"])
async def test_a_body_that_is_not_said_to_be_json_is_415(site: Site, path: str) -> None:
    for content_type in (None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        told = refused(await send(site, path, b'{"file_id": 70000}', content_type), 415)
        assert told["code"] == "unsupported_media_type"
    assert (await send(site, "check", b'{"file_id": 70000}', "application/json; charset=utf-8")).status == 200


@pytest.mark.parametrize("path", ["initiate", "check", "start"])
async def test_a_body_of_more_than_a_mebibyte_is_413(site: Site, path: str) -> None:
    told = refused(await send(site, path, b'{"file_id": 70000}' + b" " * 1024 * 1024), 413)
    assert told["code"] == "too_large"


async def test_a_query_that_cannot_be_read_is_refused_by_its_name(site: Site) -> None:
    job_id = await site.completed(70000)
    for path, name in (
        ("jobs?state=done", "state"),
        ("jobs?limit=0", "limit"),
        ("jobs?limit=101", "limit"),
        ("jobs?limit=many", "limit"),
        ("jobs?limit=", "limit"),
        ("jobs?limit=%2B5", "limit"),
        ("jobs?limit=%205", "limit"),
        ("jobs?limit=1_0", "limit"),
        ("jobs?limit=%D9%A3", "limit"),
        ("jobs?limit=" + "9" * 5000, "limit"),
        ("jobs?limit=1&limit=2", "limit"),
        ("jobs?state=completed&state=failed", "state"),
        ("jobs?cursor=abc", "cursor"),
        ("jobs?cursor=" + "A" * 201, "cursor"),
        (f"{job_id}?redirect=yes", "redirect"),
        (f"{job_id}?redirect=", "redirect"),
        (f"{job_id}?redirect=false&redirect=true", "redirect"),
        (f"subscribe/{job_id}?lastEventId=abc", "lastEventId"),
    ):
        assert list(refused(await site.get(f"{BASE}/{path}"))["errors"]) == [name], path
    told = refused(await site.ask("POST", f"{BASE}/check?sentry_test=yes", {"file_id": 70000}))
    assert list(told["errors"]) == ["sentry_test"]
    told = refused(await site.get(f"{BASE}/subscribe/{job_id}", Last_Event_ID="abc"))
    assert list(told["errors"]) == ["Last-Event-ID"]


async def test_a_query_parameter_that_nobody_knows_is_ignored(site: Site) -> None:
    job_id = await site.completed(70000)
    for path in ("jobs?_=1&_=2", f"{job_id}?utm_source=x", f"subscribe/{job_id}?_=1"):
        assert (await site.get(f"{BASE}/{path}")).status == 200, path
    assert (await site.ask("POST", f"{BASE}/check?_=1", {"file_id": 70000})).status == 200


async def test_a_refused_value_is_told_what_it_must_be(site: Site) -> None:
    job_id = await site.completed(70000)
    number, listed = "Must be a whole number from 1 to 100.", "Must be a list of 1 to 1000 file ids."
    for answer, field, must in (
        (await site.get(f"{BASE}/jobs?limit=abc"), "limit", number),
        (await site.get(f"{BASE}/jobs?limit=0"), "limit", number),
        (await site.get(f"{BASE}/{job_id}?redirect=1"), "redirect", "Must be true or false."),
        (await send(site, "initiate", b'{"file_ids": "70000"}'), "file_ids", listed),
        (await send(site, "initiate", b'{"file_ids": null}'), "file_ids", listed),
    ):
        assert refused(answer)["errors"] == {field: [must]}


async def test_a_preference_that_cannot_be_read_is_passed_over(site: Site) -> None:
    for wish in ("", "wait=-1", "wait=abc", "respond-async=no", "return=minimal", 'wait="', "," * 50):
        answer = await site.initiate(70000, Prefer=wish)
        assert (answer.status, answer.headers.get("Preference-Applied")) == (200, None), wish
