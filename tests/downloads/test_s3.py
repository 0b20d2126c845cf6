"""What only S3 can do to us: be away, hang, refuse, be full, or be reached by two names."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer
from yarl import URL

from server.downloads.objects import ObjectStore, StoreError, StoreFull, StoreUnavailable
from server.downloads.s3_objects import PART, S3Config, S3Objects, open_s3_objects
from tests.downloads.conftest import config_for
from tests.downloads.fake_s3 import Asked, FakeS3, failure, hang
from tests.downloads.places import Clock, S3Place, chunked, fetch, new_key
from tests.downloads.seaweed import S3Server

pytestmark = pytest.mark.usefixtures("descriptions")

THREE_PARTS = bytes(2 * PART + 100)
_BUCKETS = count()

CALLS: dict[str, Callable[[ObjectStore], Awaitable[Any]]] = {
    "prepare": lambda store: store.prepare(),
    "put": lambda store: store.put(new_key(), chunked(b"hello")),
    "put in parts": lambda store: store.put(new_key(), chunked(THREE_PARTS)),
    "head": lambda store: store.head(new_key()),
    "delete": lambda store: store.delete(new_key()),
    "check": lambda store: store.check(),
    "sweep": lambda store: store.sweep(3600),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture
async def fake() -> FakeS3:
    """A server that fails as it is told."""
    return FakeS3()


@pytest.fixture
async def faked(fake: FakeS3) -> AsyncIterator[S3Objects]:
    """A store in front of it."""
    async with TestServer(fake.app) as server, open_s3_objects(to_fake(server), Clock(0)) as store:
        yield store


def to_fake(server: BaseTestServer) -> S3Config:
    """How a fake server is reached."""
    return S3Config("downloads", endpoint=str(server.make_url("")), access_key_id="a", secret_access_key="b")


def new_bucket() -> str:
    """One that no other test has."""
    return f"bucket-{next(_BUCKETS)}"


async def test_the_bucket_is_made_when_it_is_missing(s3_server: S3Server) -> None:
    async with open_s3_objects(config_for(s3_server, bucket=new_bucket()), Clock(0)) as store:
        with pytest.raises(StoreUnavailable, match="bucket of the object store is missing"):
            await store.check()
        await store.prepare()
        await store.check()


async def test_processes_that_make_the_bucket_at_once_all_succeed(s3_server: S3Server) -> None:
    config = config_for(s3_server, bucket=new_bucket())
    async with open_s3_objects(config, Clock(0)) as one, open_s3_objects(config, Clock(0)) as two:
        await asyncio.gather(one.prepare(), two.prepare(), one.prepare(), two.prepare())
        await two.check()


async def test_a_process_that_is_late_with_the_bucket_takes_that_of_the_other(
    fake: FakeS3, faked: S3Objects
) -> None:
    async def missing_at_first(asked: Asked) -> web.Response | None:
        return failure(404, "NotFound") if fake.words() == ["HEAD"] else None

    async def made_by_another(asked: Asked) -> web.Response:
        return failure(409, "BucketAlreadyOwnedByYou")

    fake.reactions = {"HEAD": missing_at_first, "PUT": made_by_another}
    await faked.prepare()
    assert fake.words() == ["HEAD", "PUT", "HEAD"]


@pytest.mark.fault(87)
async def test_a_store_that_was_away_at_the_start_gets_its_bucket_with_the_first_put(
    s3_server: S3Server,
) -> None:
    async with open_s3_objects(config_for(s3_server, bucket=new_bucket()), Clock(0)) as store:
        assert await store.put(new_key(), chunked(b"hello")) == 5
        await store.check()


async def test_a_bucket_that_is_removed_is_made_again_by_the_second_put(s3_server: S3Server) -> None:
    bucket = new_bucket()
    async with open_s3_objects(config_for(s3_server, bucket=bucket), Clock(0)) as store:
        await store.prepare()
        await store._client.delete_bucket(Bucket=bucket)
        with pytest.raises(StoreUnavailable):
            await store.check()
        assert await store.put(new_key(), chunked(b"hello")) == 5


async def test_links_are_signed_for_the_address_that_clients_can_reach(
    s3: S3Place, s3_server: S3Server
) -> None:
    key = new_key()
    await s3.store.put(key, chunked(b"hello"))
    public = f"http://localhost:{s3_server.port}"
    async with open_s3_objects(config_for(s3_server, public_endpoint=public), Clock(0)) as store:
        url = await store.url(key, 60, "a.zip")
        assert await store.head(key) is not None
    assert URL(url).origin() == URL(public)
    assert (await fetch(url)).body == b"hello"
    assert (await fetch(url.replace("localhost", "127.0.0.1"))).status == 403


@pytest.mark.parametrize(
    ("path_style", "host", "path"), [(True, "s3.test", "/downloads/"), (False, "downloads.s3.test", "/")]
)
async def test_the_bucket_is_in_the_path_or_in_the_host(path_style: bool, host: str, path: str) -> None:
    config = S3Config(
        "downloads",
        endpoint="http://s3.test",
        access_key_id="a",
        secret_access_key="b",
        path_style=path_style,
    )
    async with open_s3_objects(config, Clock(0)) as store:
        url = URL(await store.url(new_key(), 60, "a.zip"))
    assert (url.host, url.path.startswith(f"{path}downloads/")) == (host, True)


@every_call
@pytest.mark.fault(90)
async def test_a_server_that_is_away_makes_every_call_fail_in_time(
    call: Callable[[ObjectStore], Awaitable[Any]],
) -> None:
    with socket.socket() as taken:  # bound but not listening: whoever connects is refused
        taken.bind(("127.0.0.1", 0))
        config = S3Config(
            "downloads",
            endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}",
            access_key_id="a",
            secret_access_key="b",
        )
        async with (
            open_s3_objects(config, Clock(0), patience=0.1, part_patience=0.1) as store,
            asyncio.timeout(20),
        ):
            with pytest.raises(StoreUnavailable):
                await call(store)


@every_call
@pytest.mark.fault(90)
async def test_a_server_that_hangs_makes_every_call_fail_in_time(
    fake: FakeS3, call: Callable[[ObjectStore], Awaitable[Any]]
) -> None:
    fake.reactions = dict.fromkeys(("HEAD", "GET", "PUT", "DELETE", "begin", "list"), hang)
    async with (
        TestServer(fake.app) as server,
        open_s3_objects(to_fake(server), Clock(0), patience=0.1, part_patience=0.1) as store,
        asyncio.timeout(20),
    ):
        with pytest.raises(StoreUnavailable, match="in time"):
            await call(store)


@pytest.mark.fault(90)
async def test_an_answer_that_breaks_off_is_unavailable(fake: FakeS3, faked: S3Objects) -> None:
    async def break_off(asked: Asked) -> web.StreamResponse:
        answer = web.StreamResponse(status=404, headers={"Content-Length": "1000"})
        await answer.prepare(asked.request)
        await answer.write(b"<Error>")
        assert asked.request.transport is not None
        asked.request.transport.close()
        return answer

    fake.reactions = {"GET": break_off}
    with pytest.raises(StoreUnavailable, match="reached"):
        await faked.check()


@pytest.mark.parametrize("call", ["put", "put in parts", "head"])
@pytest.mark.fault(90)
async def test_a_page_of_something_else_is_not_taken_for_the_word_of_a_store(
    fake: FakeS3, faked: S3Objects, call: str
) -> None:
    async def page(asked: Asked) -> web.Response:
        return web.Response(text="<html>We are soon back.</html>", content_type="text/html")

    await faked.prepare()
    fake.reactions = dict.fromkeys(("HEAD", "PUT", "begin"), page)
    with pytest.raises(StoreUnavailable, match="not an object store"):
        await CALLS[call](faked)


@every_call
@pytest.mark.fault(90)
async def test_a_server_that_refuses_us_is_unavailable(
    s3_server: S3Server, call: Callable[[ObjectStore], Awaitable[Any]]
) -> None:
    async with open_s3_objects(config_for(s3_server, secret_access_key="wrong"), Clock(0)) as store:
        with pytest.raises(StoreUnavailable, match="credentials"):
            await call(store)


async def test_a_link_needs_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    async with open_s3_objects(S3Config("downloads", endpoint="http://s3.test"), Clock(0)) as store:
        with pytest.raises(StoreUnavailable):
            await store.url(new_key(), 60, "a.zip")


@pytest.mark.parametrize(
    "answer", [(507, "InsufficientStorage"), (400, "QuotaExceeded"), (400, "XMinioStorageFull")]
)
@pytest.mark.parametrize("what", ["PUT", "part"])
@pytest.mark.fault(90)
async def test_a_server_without_room_is_full(
    fake: FakeS3, faked: S3Objects, answer: tuple[int, str], what: str
) -> None:
    async def full(asked: Asked) -> web.Response:
        return failure(*answer)

    fake.reactions = {what: full}
    with pytest.raises(StoreFull):
        await faked.put(new_key(), chunked(b"hello" if what == "PUT" else THREE_PARTS))
    assert ("abort" in fake.words()) == (what == "part")


@pytest.mark.parametrize(
    "answer", [(400, "Odd"), (403, "AccessDenied"), (404, "NoSuchBucket"), (507, "Full")]
)
async def test_callers_are_not_told_the_words_of_the_server(
    fake: FakeS3, faked: S3Objects, answer: tuple[int, str]
) -> None:
    async def fail(asked: Asked) -> web.Response:
        return failure(*answer)

    fake.reactions = {"GET": fail}
    with pytest.raises(StoreError) as caught:
        await faked.check()
    assert "internal-host" in str(caught.value.__cause__)
    assert "internal-host" not in caught.value.detail
    assert answer[1] not in caught.value.detail


async def test_a_marker_that_is_there_is_as_good_as_none(s3: S3Place) -> None:
    await s3.client.put_object(Bucket=s3.bucket, Key=".hedgerow-health", Body=b"well")
    await s3.store.check()
    await s3.client.delete_object(Bucket=s3.bucket, Key=".hedgerow-health")
    await s3.store.check()


async def test_every_part_carries_its_digest_and_its_number(fake: FakeS3, faked: S3Objects) -> None:
    body = b"a" * PART + b"b" * PART + b"c"
    await faked.put(new_key(), chunked(body))
    sent = [one for one in fake.asked if one.what == "part"]
    assert [len(one.body) for one in sent] == [PART, PART, 1]
    assert b"".join(one.body for one in sent) == body
    assert [one.request.query["partNumber"] for one in sent] == ["1", "2", "3"]
    for one in sent:
        digest = base64.b64encode(hashlib.md5(one.body, usedforsecurity=False).digest()).decode()
        assert one.request.headers["Content-MD5"] == digest
    assert fake.words()[-1] == "complete"
    assert b"<PartNumber>3</PartNumber>" in fake.asked[-1].body


@pytest.mark.parametrize("what", ["part", "complete"])
@pytest.mark.fault(90)
async def test_an_upload_that_hangs_is_given_up_and_aborted(
    fake: FakeS3, faked: S3Objects, what: str
) -> None:
    async def impatient(asked: Asked) -> None:
        """From now on, so that what goes before has all its time."""
        faked._part_patience = 0.05

    before = {"part": "begin", "complete": "part"}[what]
    fake.reactions = {before: impatient, what: hang}
    with pytest.raises(StoreUnavailable, match="in time"):
        await faked.put(new_key(), chunked(bytes(PART)))
    assert fake.words()[-1] == "abort"
    assert fake.asked[-1].request.query["uploadId"] == "upload-1"


async def test_an_upload_that_is_cancelled_while_it_begins_is_aborted(fake: FakeS3, faked: S3Objects) -> None:
    """The server has it, and we do not yet know its id."""
    begin = asyncio.Event()

    async def wait(asked: Asked) -> None:
        await begin.wait()

    fake.reactions = {"begin": wait}
    upload = asyncio.create_task(faked.put(new_key(), chunked(THREE_PARTS)))
    await fake.was_asked("begin")
    upload.cancel()
    begin.set()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert fake.words()[-2:] == ["begin", "abort"]


async def test_who_cancels_twice_does_not_wait_and_the_abort_still_ends(fake: FakeS3) -> None:
    abort = asyncio.Event()

    async def wait(asked: Asked) -> None:
        await abort.wait()

    fake.reactions = {"part": hang, "abort": wait}
    async with TestServer(fake.app) as server:
        async with open_s3_objects(to_fake(server), Clock(0)) as store:
            upload = asyncio.create_task(store.put(new_key(), chunked(THREE_PARTS)))
            await fake.was_asked("part")
            upload.cancel()
            await fake.was_asked("abort")
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            assert len(store._tidying._tasks) == 1
            abort.set()
        assert not store._tidying._tasks, "closing the store waits for it"


async def test_an_abort_that_fails_is_logged_and_hides_nothing(
    fake: FakeS3, faked: S3Objects, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(asked: Asked) -> web.Response:
        return failure(400, "Odd")

    async def full(asked: Asked) -> web.Response:
        return failure(507, "Full")

    fake.reactions = {"part": full, "abort": refuse}
    with caplog.at_level(logging.WARNING), pytest.raises(StoreFull):
        await faked.put(new_key(), chunked(THREE_PARTS))
    assert "left to the sweep" in caplog.text


async def test_the_sweep_sees_more_uploads_than_fit_on_a_page(
    s3: S3Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [new_key() for _ in range(5)]
    for key in keys:
        await s3.orphan(key)
    get = s3.client.get_paginator
    monkeypatch.setattr(s3.client, "get_paginator", lambda name: _TwoAtATime(get(name)))
    s3.later(3600)
    assert await s3.store.sweep(1800) == 5
    assert [await s3.uploads(key) for key in keys] == [0] * 5


class _TwoAtATime:
    """A paginator with small pages."""

    def __init__(self, paginator: Any) -> None:
        self._paginator = paginator

    def paginate(self, **given: Any) -> Any:
        return self._paginator.paginate(**given, PaginationConfig={"PageSize": 2})


@pytest.mark.fault(101)
def test_the_secret_does_not_show_in_the_configuration() -> None:
    assert "hunter2" not in repr(S3Config("b", access_key_id="hunter2", secret_access_key="hunter2"))


async def test_who_makes_many_links_lets_others_go_on_between_two(faked: S3Objects) -> None:
    """A result of a thousand files had held everybody for a second."""
    going_on = 0

    async def goes_on() -> None:
        nonlocal going_on
        while True:
            await asyncio.sleep(0)
            going_on += 1

    async with asyncio.TaskGroup() as group:
        other = group.create_task(goes_on(), name="others")
        for _ in range(20):
            await faked.url(new_key(), 60, "a.zip")
        other.cancel()
    assert going_on >= 19


async def test_a_store_without_credentials_says_that_and_not_that_it_is_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    config = S3Config(bucket="downloads", endpoint="http://127.0.0.1:9")
    async with open_s3_objects(config, Clock(0)) as store:
        with pytest.raises(StoreUnavailable, match="no credentials"):
            await store.check()
