"""The simulated source of files: what it has, in parts and whole, how slow it is, and how it fails."""

from __future__ import annotations

import asyncio
import io
import random
import zipfile
from types import SimpleNamespace
from typing import TypeAlias

import pytest
from aiohttp import ClientPayloadError, web
from aiohttp.test_utils import TestClient
from pytest_aiohttp.plugin import AiohttpClient

from tests.upstream.asking import until
from upstream.simulator import files
from upstream.simulator.app import serve_simulator
from upstream.simulator.files import FileService, archive, has_file
from upstream.simulator.latency import parse_latency
from upstream.simulator.work import WorkModel

Client: TypeAlias = TestClient[web.Request, web.Application]
FILE = "/files/70000"
TOTAL = len(archive(70_000))


@pytest.fixture
def service() -> FileService:
    """Well, and at once."""
    return FileService(random.Random(1))


@pytest.fixture
async def client(service: FileService, aiohttp_client: AiohttpClient) -> Client:
    """A client of *service*."""
    app = web.Application()
    service.add_to(app)
    return await aiohttp_client(app)


def test_every_seventh_id_has_a_file() -> None:
    assert has_file(70_000)
    assert [one for one in range(10_000, 10_020) if has_file(one)] == [10_003, 10_010, 10_017]


def test_ids_out_of_range_have_no_file() -> None:
    assert [has_file(one) for one in (7, 9_996, 99_999_998, 100_000_005)] == [False, False, True, False]


@pytest.mark.parametrize("file_id", [10_003, 70_000, 99_999_998])
def test_a_file_is_a_valid_archive_of_about_80_kib(file_id: int) -> None:
    made = archive(file_id)
    assert made == archive(file_id)
    assert 80 * 1024 <= len(made) <= 88 * 1024
    with zipfile.ZipFile(io.BytesIO(made)) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == [f"{file_id}.txt"]
        assert opened.read(f"{file_id}.txt").startswith(f"This is file {file_id}, ".encode())


def test_files_differ() -> None:
    assert len({archive(one, edition) for one in (70_000, 70_007) for edition in (0, 1)}) == 4


async def test_a_whole_file(client: Client) -> None:
    answer = await client.get(FILE)
    assert (answer.status, answer.content_type) == (200, "application/zip")
    assert await answer.read() == archive(70_000)


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("bytes=0-0", f"bytes 0-0/{TOTAL}"),
        ("bytes=100-8291", f"bytes 100-8291/{TOTAL}"),
        (f"bytes={TOTAL - 5}-", f"bytes {TOTAL - 5}-{TOTAL - 1}/{TOTAL}"),
        ("bytes=80000-999999", f"bytes 80000-{TOTAL - 1}/{TOTAL}"),
        (f"bytes=0-{TOTAL - 1}", f"bytes 0-{TOTAL - 1}/{TOTAL}"),
    ],
)
async def test_a_part_says_which_it_is(client: Client, wanted: str, told: str) -> None:
    answer = await client.get(FILE, headers={"Range": wanted})
    assert (answer.status, answer.headers["Content-Range"], answer.headers["ETag"]) == (
        206,
        told,
        '"70000-0"',
    )
    first, last = map(int, told.split()[1].split("/")[0].split("-"))
    assert await answer.read() == archive(70_000)[first : last + 1]


@pytest.mark.parametrize("wanted", [f"bytes={TOTAL}-", "bytes=5-4", "lines=1-2"])
async def test_a_part_that_there_is_not(client: Client, wanted: str) -> None:
    answer = await client.get(FILE, headers={"Range": wanted})
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{TOTAL}")


async def test_a_file_that_there_is_not(client: Client) -> None:
    assert (await client.get("/files/70001")).status == 404


async def test_a_changed_file_has_another_etag_and_other_bytes(client: Client, service: FileService) -> None:
    service.change(70_000)
    assert (await client.get(FILE, headers={"If-Match": '"70000-0"'})).status == 412
    answer = await client.get(FILE, headers={"If-Match": '"70000-1"'})
    assert (answer.status, await answer.read()) == (200, archive(70_000, 1))


async def test_failures_as_told(client: Client, service: FileService) -> None:
    service.failure = 1.0
    assert (await client.get(FILE)).status == 500
    assert service.calls == 1


async def test_an_answer_that_breaks_off_has_its_head_and_half_its_body(
    client: Client, service: FileService
) -> None:
    service.drop = 1.0
    answer = await client.get(FILE)
    assert (answer.status, answer.content_length) == (200, TOTAL)
    with pytest.raises(ClientPayloadError):
        await answer.read()


def test_a_file_takes_its_own_time_and_the_same_each_time() -> None:
    one, other = (FileService(random.Random(luck), parse_latency("uniform:10000-120000")) for luck in (1, 2))
    taken = [one.takes(file_id) for file_id in range(70_000, 71_400, 7)]
    assert taken == [other.takes(file_id) for file_id in range(70_000, 71_400, 7)]
    assert 10 <= min(taken) < 15
    assert 115 < max(taken) <= 120


async def test_a_part_takes_its_part_of_the_time(
    aiohttp_client: AiohttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(files, "asyncio", SimpleNamespace(sleep=sleep))
    app = web.Application()
    FileService(random.Random(1), parse_latency("constant:100000")).add_to(app)
    client = await aiohttp_client(app)
    for first in range(0, TOTAL, 10_000):
        await client.get(FILE, headers={"Range": f"bytes={first}-{first + 9_999}"})
    assert slept[0] == pytest.approx(100 * 10_000 / TOTAL)
    assert sum(slept) == pytest.approx(100)


async def test_a_caller_who_hangs_up_is_not_waited_for() -> None:
    """The tasks are back to where they were, with the server still up."""
    slow = FileService(random.Random(1), parse_latency("constant:1000000"))
    work = WorkModel(parse_latency("constant:0"))
    async with serve_simulator(work, random.Random(1), files=slow) as url:
        before = asyncio.all_tasks()
        host, port = url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {FILE} HTTP/1.1\r\nHost: simulator\r\n\r\n".encode())
        await until(lambda: slow.calls == 1)
        assert not asyncio.all_tasks() <= before
        writer.close()
        await writer.wait_closed()
        await until(lambda: asyncio.all_tasks() <= before)
