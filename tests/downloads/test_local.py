"""What only a local folder can do to us: fill up, hang, and be served by ourselves."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from server.downloads import files, objects
from server.downloads.objects import StoreFull, StoreUnavailable
from tests.downloads.conftest import local_place
from tests.downloads.places import LocalPlace, chunked, fetch, new_key

BLOCK = 1024 * 1024


async def test_objects_leave_the_reserve_of_the_disk_free(tmp_path: Path) -> None:
    """The job store writes to the same disk."""
    async with local_place(tmp_path / "objects", reserve=2**60) as place:
        with pytest.raises(StoreFull):
            await place.store.put(new_key(), chunked(b"hello"))
        with pytest.raises(StoreFull):
            await place.store.check()
        assert place.parts() == []


async def test_what_is_stored_can_be_read_while_the_disk_is_full(tmp_path: Path) -> None:
    key = new_key()
    async with local_place(tmp_path / "objects", reserve=0) as place:
        await place.store.put(key, chunked(b"hello"))
    async with local_place(tmp_path / "objects", reserve=2**60) as place:
        assert (await fetch(await place.store.url(key, 60, "a.zip"))).body == b"hello"


@pytest.mark.fault(91)
async def test_a_disk_that_fills_up_meanwhile_is_full_and_nothing_is_left(
    local: LocalPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel itself says so: ``/dev/full`` is a disk without room."""
    beside = tmp_path / "beside.part"

    def without_room(suffix: str, dir: Path) -> tuple[int, str]:
        beside.touch()
        return os.open("/dev/full", os.O_WRONLY), str(beside)

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", without_room)
        with pytest.raises(StoreFull) as caught:
            await local.store.put(new_key(), chunked(b"hello"))
    assert "/" not in caught.value.detail
    assert not beside.exists()
    assert await local.store.put(new_key(), chunked(b"hello")) == 5


@pytest.mark.fault(91)
async def test_a_disk_that_hangs_is_unavailable_in_time_and_nothing_is_left_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()

    async with local_place(tmp_path / "objects", reserve=0) as place:

        async def blocks() -> AsyncIterator[bytes]:
            """The disk hangs from the second one on, so that what goes before has all its time."""
            yield bytes(BLOCK)
            monkeypatch.setattr(files, "require_room", lambda where, room: goes_on.wait(30))
            place.store._patience = 1.0
            yield b"hello"

        with pytest.raises(StoreUnavailable, match="in time"):
            await place.store.put(new_key(), blocks())
        assert len(place.parts()) == 1
        goes_on.set()
        place.store._threads.shutdown(wait=True)
        assert place.parts() == []


async def test_a_folder_that_is_a_file_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "objects").write_bytes(b"no folder")
    with pytest.raises(StoreUnavailable) as caught:
        async with local_place(tmp_path / "objects"):
            pass
    assert str(tmp_path) not in caught.value.detail


async def test_an_object_is_flushed_to_the_disk_before_it_has_its_name(
    local: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        steps.append(f"flush {os.readlink(f'/proc/self/fd/{descriptor}').rpartition('/')[2]}")
        fsync(descriptor)

    def noted_replace(path: Path, target: Any) -> Path:
        steps.append("move")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    await local.store.put(key, chunked(b"hello"))
    assert steps[0].endswith(".part")
    assert steps[1:] == ["move", "flush downloads"]


async def test_no_descriptor_is_left_open(local: LocalPlace) -> None:
    key = new_key()

    async def all_kinds() -> None:
        await local.store.put(key, chunked(b"hello"))
        async with local.store.reading(key), local.store.reading(new_key()):
            pass
        reading = asyncio.create_task(read_for_ever())
        await began.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    async def read_for_ever() -> None:
        async with local.store.reading(key):
            began.set()
            await asyncio.Event().wait()

    began = asyncio.Event()
    await all_kinds()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        began.clear()
        await all_kinds()
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # a thread's first start may open something


async def test_a_reading_that_is_cancelled_while_the_file_is_opened_closes_it(
    local: LocalPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    await local.store.put(key, chunked(b"hello"))
    opening, go_on = threading.Event(), threading.Event()
    opened: list[int] = []
    really = os.open

    def slow(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        descriptor = really(path, flags, *args, **kwargs)
        if str(path).endswith(key):
            opened.append(descriptor)
            opening.set()
            go_on.wait(30)
        return descriptor

    monkeypatch.setattr(os, "open", slow)

    async def read() -> None:
        async with local.store.reading(key):
            raise AssertionError("it was cancelled before")

    task = asyncio.create_task(read())
    await asyncio.to_thread(opening.wait, 30)
    task.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


async def test_who_reads_an_object_that_is_replaced_gets_the_one_it_began_with(local: LocalPlace) -> None:
    key = new_key()
    await local.store.put(key, chunked(b"the former"))
    async with local.store.reading(key) as reader:
        assert reader is not None
        await local.store.put(key, chunked(b"the new one"))
        assert reader.info.size == 10
        assert await reader.read(0, 100) == b"the former"


async def test_the_sweep_spares_an_upload_that_goes_on(local: LocalPlace) -> None:
    key, written, go_on = new_key(), asyncio.Event(), asyncio.Event()

    async def slow() -> Any:
        yield bytes(BLOCK)
        written.set()
        await go_on.wait()
        yield b"end"

    upload = asyncio.create_task(local.store.put(key, slow()))
    await written.wait()
    assert len(local.parts()) == 1
    assert await local.store.sweep(3600) == 0
    go_on.set()
    assert await upload == BLOCK + 3


async def test_without_a_base_links_are_paths(tmp_path: Path) -> None:
    async with local_place(tmp_path / "objects") as place:
        place.store._base = ""
        url = await place.store.url(objects.object_key(70_000), 60, "a.zip")
    assert url.startswith("/objects/downloads/70000.zip?")


@pytest.mark.parametrize(
    ("wanted", "if_range", "status"),
    [
        ("bytes=5-", "{etag}", 206),
        ("bytes=5-", "{modified}", 206),
        ("bytes=5-", '"another"', 200),
        ("bytes=5-", "W/{etag}", 200),
        ("bytes=5-", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("bytes=5-", "nonsense", 200),
        ("bytes=0-1,4-5", "{etag}", 200),
        ("items=0-5", "{etag}", 200),
        ("bytes=5-2", "{etag}", 200),
        ("bytes=-", "{etag}", 200),
        ("bytes=-0", "{etag}", 416),
        ("bytes=" + "9" * 5000 + "-", "{etag}", 200),
        ("bytes=\u0663-\u0664", "{etag}", 200),
    ],
)
async def test_a_part_is_given_only_to_who_has_the_rest_of_it(
    local: LocalPlace, wanted: str, if_range: str, status: int
) -> None:
    key = new_key()
    await local.store.put(key, chunked(b"0123456789"))
    url = await local.store.url(key, 60, "a.zip")
    head = (await fetch(url, "HEAD")).headers
    condition = if_range.format(etag=head["ETag"], modified=head["Last-Modified"])
    got = await fetch(url, Range=wanted, If_Range=condition)
    assert got.status == status
    if status < 300:
        assert got.body == (b"56789" if status == 206 else b"0123456789")
    else:
        assert got.headers["Content-Range"] == "bytes */10"
        assert got.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        ({"If_Match": "{etag}"}, 206),
        ({"If_Match": '"another", {etag}'}, 206),
        ({"If_Match": "*"}, 206),
        ({"If_Match": '"another"'}, 412),
        ({"If_Match": "W/{etag}"}, 412),
        ({"If_Match": "{etag}", "If_Unmodified_Since": "{before}"}, 206),
        ({"If_Unmodified_Since": "{modified}"}, 206),
        ({"If_Unmodified_Since": "{before}"}, 412),
        ({"If_Unmodified_Since": "nonsense"}, 206),
        ({"If_Unmodified_Since": "Thu, 99 Jan 99999999999 00:00:00 GMT"}, 206),
        ({"If_None_Match": "{etag}"}, 304),
        ({"If_None_Match": "W/{etag}"}, 304),
        ({"If_None_Match": "*"}, 304),
        ({"If_None_Match": '"another"'}, 206),
        ({"If_None_Match": '"another"', "If_Modified_Since": "{modified}"}, 206),
        ({"If_Modified_Since": "{modified}"}, 304),
        ({"If_Modified_Since": "{before}"}, 206),
        ({"If_Match": '"another"', "If_None_Match": "{etag}"}, 412),
    ],
)
async def test_who_wants_one_version_or_has_it_gets_no_other(
    local: LocalPlace, condition: dict[str, str], status: int
) -> None:
    """A download that is gone on with had got the rest of another version."""
    key = new_key()
    await local.store.put(key, chunked(b"0123456789"))
    url = await local.store.url(key, 60, "a.zip")
    head = (await fetch(url, "HEAD")).headers
    known = {"etag": head["ETag"], "modified": head["Last-Modified"]}
    before = "Thu, 01 Jan 1970 00:00:00 GMT"
    headers = {name: text.format(**known, before=before) for name, text in condition.items()}
    got = await fetch(url, Range="bytes=5-", **headers)
    assert (got.status, got.headers["ETag"]) == (status, head["ETag"])
    assert (got.body == b"56789") == (status == 206)


async def test_head_tells_the_size_and_sends_nothing(local: LocalPlace) -> None:
    key = new_key()
    await local.store.put(key, chunked(b"hello"))
    got = await fetch(await local.store.url(key, 60, "a.zip"), "HEAD", Range="bytes=1-2")
    assert (got.status, got.headers["Content-Length"], got.body) == (200, "5", b"")


async def test_a_file_is_a_download_that_nobody_sniffs_or_keeps(local: LocalPlace) -> None:
    key = new_key()
    await local.store.put(key, chunked(b"<script>alert(1)</script>"))
    got = await fetch(await local.store.url(key, 60, "a.html"))
    assert got.headers["Content-Disposition"].startswith("attachment;")
    assert got.headers["Content-Type"] == "application/zip"
    assert got.headers.getall("X-Content-Type-Options") == ["nosniff"]
    assert got.headers["Cache-Control"].startswith("private")


async def test_what_a_link_comes_to_is_told_as_a_problem(local: LocalPlace) -> None:
    key = new_key()
    url = await local.store.url(key, 60, "a.zip")
    with local.ago(3600):
        expired = await local.store.url(key, 60, "a.zip")
    for asked, status in ((url, 404), (expired, 410), (url + "x", 403), (url + "&expires=1", 403)):
        got = await fetch(asked)
        assert (got.status, got.headers["Content-Type"]) == (status, "application/problem+json")
        assert URL(asked).query["signature"][:64].encode() not in got.body


ODD_PATHS = (
    *("..%2f..%2fsecret", "%2e%2e%2fsecret", "..%5csecret", "%00", "70000%00", "%2fetc%2fpasswd", "070000"),
    *(
        "\uff17\uff10\uff10\uff10\uff10",
        "\u0667\u0660\u0660\u0660\u0660",
        "70000.zip%2f..",
        "9999",
        "100000001",
        "-70000",
        "+70000",
        "7e4",
        "70000%20",
        "9" * 4000,
    ),
)


@pytest.mark.parametrize("name", ODD_PATHS, ids=[name[:20] for name in ODD_PATHS])
async def test_a_path_decides_nothing_but_which_of_our_ids(local: LocalPlace, name: str) -> None:
    """Asked as bytes on a socket, so that no client straightens the path out."""
    key = objects.object_key(70_000)
    await local.store.put(key, chunked(b"secret"))
    (local.folder.parent / "secret.zip").write_bytes(b"secret")
    (local.folder / "secret.zip").write_bytes(b"secret")
    url = URL(await local.store.url(key, 60, "a.zip"))
    reader, writer = await asyncio.open_connection(url.host, url.port)
    target = f"/objects/downloads/{name}.zip?{url.raw_query_string}"
    writer.write(f"GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert int(answer.split()[1]) in (400, 404)
    assert b"secret" not in answer.partition(b"\r\n\r\n")[2].replace(name.encode(), b"")


@pytest.mark.fault(101)
async def test_a_link_is_never_logged(local: LocalPlace, caplog: pytest.LogCaptureFixture) -> None:
    key = new_key()
    await local.store.put(key, chunked(b"hello"))
    url = await local.store.url(key, 60, "a.zip")
    with caplog.at_level(logging.DEBUG):
        await fetch(url)
        await fetch(url + "x")
    assert caplog.records, "the access log has told of them"
    told = "".join(str(record.__dict__) for record in caplog.records if record.name.startswith("hedgerow"))
    assert str(key) in told
    assert URL(url).query["signature"] not in told


async def test_a_file_that_shrinks_while_it_is_sent_breaks_the_connection(
    local: LocalPlace, caplog: pytest.LogCaptureFixture
) -> None:
    """The head has told a length; a short body must not look like a whole one."""
    key = new_key()
    await local.store.put(key, chunked(bytes(8 * BLOCK)))
    url = await local.store.url(key, 60, "a.zip")
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.content_length == 8 * BLOCK
        os.truncate(local.folder / key, 10)
        async with asyncio.timeout(30):
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()
    assert "a bug" not in caplog.text


async def test_a_client_that_takes_nothing_is_dropped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key()
    dropped = asyncio.Event()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "sent in part only" in record.getMessage():
                dropped.set()

    log, listening = logging.getLogger("hedgerow.downloads"), Listening()
    log.addHandler(listening)
    with caplog.at_level(logging.INFO):
        async with local_place(tmp_path / "objects", stall=0.05) as place, asyncio.timeout(30):
            await place.store.put(key, chunked(bytes(32 * BLOCK)))
            url = URL(await place.store.url(key, 60, "a.zip"))
            with socket.socket() as dead:
                dead.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                dead.connect((url.host, url.port))
                dead.sendall(f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                await dropped.wait()
    log.removeHandler(listening)
    assert "a bug" not in caplog.text


async def test_a_client_that_goes_away_is_no_error(
    local: LocalPlace, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key()
    await local.store.put(key, chunked(bytes(32 * BLOCK)))
    url = await local.store.url(key, 60, "a.zip")
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        await response.content.read(10)
    assert (await fetch(url, Range="bytes=0-3")).body == bytes(4)
    assert "a bug" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.fixture(autouse=True)
def no_errors_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing in this file is a bug of the server."""
    yield
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
