"""What holds for every object store: one suite, against a local folder and against a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tracemalloc
from collections.abc import AsyncIterator

import pytest

from server.downloads.objects import StoreUnavailable, object_key
from tests.downloads.places import Place, chunked, fetch, new_key

LARGE = random.Random(7).randbytes(12 * 1024 * 1024 + 4321)
"""Two parts and a rest for S3; a dozen blocks and a rest for a folder."""


class SourceFailed(Exception):
    """What the chunks come from has failed."""


async def failing(*chunks: bytes) -> AsyncIterator[bytes]:
    """Those chunks, and then a failure."""
    for chunk in chunks:
        yield chunk
    raise SourceFailed


async def test_what_was_put_is_found_with_its_size(place: Place) -> None:
    key = new_key()
    assert await place.store.put(key, chunked(b"hello ", b"", b"world")) == 11
    found = await place.store.head(key)
    assert found is not None
    assert found.size == 11
    assert found.etag
    assert '"' not in found.etag
    assert abs(found.modified - place.clock.now) < 60


async def test_an_object_that_nobody_put_is_not_found(place: Place) -> None:
    assert await place.store.head(new_key()) is None


async def test_a_plain_client_gets_the_object_by_its_link_as_a_file_to_save(place: Place) -> None:
    key = new_key()
    await place.store.put(key, chunked(b"hello"))
    got = await fetch(await place.store.url(key, 60, "report.zip"))
    assert (got.status, got.body) == (200, b"hello")
    assert got.headers["Content-Disposition"] == 'attachment; filename="report.zip"'
    assert got.headers["Content-Type"] == "application/zip"
    assert got.headers["Accept-Ranges"] == "bytes"


async def test_a_file_name_can_hold_anything_and_breaks_no_header(place: Place) -> None:
    key = new_key()
    await place.store.put(key, chunked(b"hello"))
    got = await fetch(await place.store.url(key, 60, 'a"\r\nX-Evil: 1;\\/ü€.zip'))
    assert got.status == 200
    assert "X-Evil" not in got.headers
    assert got.headers["Content-Disposition"] == (
        'attachment; filename="a___X-Evil_ 1_____.zip"; '
        "filename*=UTF-8''a%22%0D%0AX-Evil%3A%201%3B%5C%2F%C3%BC%E2%82%AC.zip"
    )


async def test_a_large_object_comes_back_as_it_went(place: Place) -> None:
    key = new_key()
    pieces = [LARGE[at : at + 777_777] for at in range(0, len(LARGE), 777_777)]
    assert await place.store.put(key, chunked(*pieces)) == len(LARGE)
    got = await fetch(await place.store.url(key, 60, "large.zip"))
    assert got.digest == hashlib.sha256(LARGE).hexdigest()
    assert await place.uploads(key) == 0


async def test_an_empty_object_is_an_object(place: Place) -> None:
    key = new_key()
    assert await place.store.put(key, chunked()) == 0
    found = await place.store.head(key)
    assert found is not None
    assert found.size == 0
    got = await fetch(await place.store.url(key, 60, "empty.zip"))
    assert (got.status, got.body) == (200, b"")


async def test_a_second_put_replaces_the_first(place: Place) -> None:
    key = new_key()
    await place.store.put(key, chunked(b"first"))
    first = await place.store.head(key)
    await place.store.put(key, chunked(b"the second"))
    second = await place.store.head(key)
    assert first is not None
    assert second is not None
    assert second.etag != first.etag
    assert (await fetch(await place.store.url(key, 60, "a.zip"))).body == b"the second"


async def test_a_deleted_object_is_gone_and_can_be_deleted_again(place: Place) -> None:
    key = new_key()
    await place.store.put(key, chunked(b"hello"))
    url = await place.store.url(key, 60, "a.zip")
    await place.store.delete(key)
    await place.store.delete(key)
    assert await place.store.head(key) is None
    assert (await fetch(url)).status == 404


@pytest.mark.parametrize("size", [10, len(LARGE)], ids=["small", "large"])
@pytest.mark.fault(90)
async def test_an_upload_whose_source_fails_leaves_nothing(place: Place, size: int) -> None:
    key = new_key()
    with pytest.raises(SourceFailed):
        await place.store.put(key, failing(LARGE[:size]))
    assert await place.store.head(key) is None
    assert await place.uploads(key) == 0


async def test_a_cancelled_upload_leaves_nothing(place: Place) -> None:
    key = new_key()
    sent = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield LARGE
        sent.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(place.store.put(key, endless()))
    await sent.wait()
    assert await place.uploads(key) == 1
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert await place.store.head(key) is None
    assert await place.uploads(key) == 0


@pytest.mark.fault(90)
async def test_an_object_stays_as_it_was_when_its_replacement_fails(place: Place) -> None:
    key = new_key()
    await place.store.put(key, chunked(b"as it was"))
    with pytest.raises(SourceFailed):
        await place.store.put(key, failing(LARGE))
    assert (await fetch(await place.store.url(key, 60, "a.zip"))).body == b"as it was"


async def test_forty_megabytes_pass_through_a_few(place: Place) -> None:
    """A part is held twice for a moment, while it is made; nothing grows with the object."""
    key = new_key()
    megabyte = bytes(1024 * 1024)

    async def source() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield megabyte

    await place.store.put(new_key(), chunked(bytes(6 * 1024 * 1024)))  # what is loaded once is loaded
    tracemalloc.start()
    try:
        assert await place.store.put(key, source()) == 40 * 1024 * 1024
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 13 * 1024 * 1024
    found = await place.store.head(key)
    assert found is not None
    assert found.size == 40 * 1024 * 1024
    await place.store.delete(key)


RANGES = {
    "bytes=0-0": (206, "bytes 0-0/1000", slice(0, 1)),
    "bytes=100-199": (206, "bytes 100-199/1000", slice(100, 200)),
    "bytes=900-": (206, "bytes 900-999/1000", slice(900, 1000)),
    "bytes=900-5000": (206, "bytes 900-999/1000", slice(900, 1000)),
    "bytes=-10": (206, "bytes 990-999/1000", slice(990, 1000)),
    "bytes=1000-": (416, "bytes */1000", None),
}


@pytest.mark.parametrize("wanted", RANGES)
async def test_a_client_can_ask_for_a_part(place: Place, wanted: str) -> None:
    key, body = new_key(), random.Random(3).randbytes(1000)
    await place.store.put(key, chunked(body))
    status, told, bytes_of = RANGES[wanted]
    got = await fetch(await place.store.url(key, 60, "a.zip"), Range=wanted)
    assert got.status == status
    assert got.headers["Content-Range"] == told
    if bytes_of is not None:
        assert got.body == body[bytes_of]
        assert got.headers["Content-Length"] == str(len(got.body))


async def test_a_download_that_broke_off_goes_on_if_the_object_is_still_the_same(place: Place) -> None:
    key = new_key()
    await place.store.put(key, chunked(b"0123456789"))
    url = await place.store.url(key, 60, "a.zip")
    etag = (await fetch(url)).headers["ETag"]
    assert (await fetch(url, Range="bytes=5-", If_Match=etag)).body == b"56789"


async def test_an_expired_link_gives_nothing(place: Place) -> None:
    key = new_key()
    await place.store.put(key, chunked(b"secret"))
    with place.ago(3600):
        alive, dead = await place.store.url(key, 3700, "a.zip"), await place.store.url(key, 3500, "a.zip")
    assert (await fetch(alive)).status == 200
    got = await fetch(dead)
    assert got.status == place.expired
    assert b"secret" not in got.body


async def test_a_changed_link_gives_nothing(place: Place) -> None:
    mine, other = new_key(), new_key()
    for key in (mine, other):
        await place.store.put(key, chunked(b"secret"))
    url = await place.store.url(mine, 60, "a.zip")
    for forged in (url.replace(mine, other), url.replace("a.zip", "b.exe"), url[:-1] + chr(ord(url[-1]) ^ 1)):
        assert forged != url
        got = await fetch(forged)
        assert got.status == 403
        assert b"secret" not in got.body


async def test_an_address_without_a_signature_gives_nothing(place: Place) -> None:
    key = new_key()
    await place.store.put(key, chunked(b"secret"))
    got = await fetch((await place.store.url(key, 60, "a.zip")).partition("?")[0])
    assert got.status == 403
    assert b"secret" not in got.body


@pytest.mark.parametrize("seconds", [0, -1, 0.5, 7 * 24 * 3600 + 1])
async def test_a_link_lives_for_a_second_to_a_week(place: Place, seconds: float) -> None:
    with pytest.raises(ValueError, match="a link lives for"):
        await place.store.url(new_key(), seconds, "a.zip")


async def test_a_fresh_store_is_well_though_there_is_no_marker(place: Place) -> None:
    await place.store.check()


async def test_a_store_whose_place_is_gone_is_not_well(place: Place) -> None:
    await place.spoil()
    with pytest.raises(StoreUnavailable):
        await place.store.check()


async def test_preparing_twice_changes_nothing(place: Place) -> None:
    key = new_key()
    await place.store.put(key, chunked(b"hello"))
    await place.store.prepare()
    assert await place.store.head(key) is not None
    await place.store.check()


@pytest.mark.fault(90)
async def test_the_sweep_takes_away_what_a_dead_process_left_and_spares_what_is_young(place: Place) -> None:
    key = new_key()
    await place.orphan(key)
    place.later(3000)
    assert await place.store.sweep(3600) == 0
    assert await place.uploads(key) == 1
    place.later(3000)
    assert await place.store.sweep(3600) == 1
    assert await place.uploads(key) == 0
    assert await place.store.sweep(3600) == 0


@pytest.mark.parametrize(
    "file_id", [9_999, 100_000_001, 0, -70_000, True, "70000", "../../x", 70_000.0, None]
)
def test_only_our_own_ids_have_keys(file_id: object) -> None:
    with pytest.raises(ValueError, match="no file has the id"):
        object_key(file_id)  # type: ignore[arg-type]


def test_the_key_of_a_file_is_what_the_contract_says() -> None:
    assert object_key(10_000) == "downloads/10000.zip"
    assert object_key(100_000_000) == "downloads/100000000.zip"
