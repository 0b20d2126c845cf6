"""The slow source of files: which there are, what is in them, and how long it takes.

Nothing is kept: a file is made anew for each request, the same bytes every time. What a caller of such a
source may rely on is docs/reference/file-source.rst.
"""

from __future__ import annotations

import asyncio
import io
import random
import zipfile

from aiohttp import web

from upstream.simulator.latency import Latency

SMALLEST_ID, LARGEST_ID = 10_000, 100_000_000
LINES = 1280
"""In a file, at least; of 64 bytes each, so that a file has 80 KiB and a little more."""


def has_file(file_id: int) -> bool:
    """Whether the simulated source has that file; 70000 is one."""
    return file_id % 7 == 0 and SMALLEST_ID <= file_id <= LARGEST_ID


def archive(file_id: int, edition: int = 0) -> bytes:
    """The file: a ZIP archive of 80 to 85 KiB with one text in it, not compressed."""
    line = f"This is file {file_id}, edition {edition}.".ljust(63).encode() + b"\n"
    entry = zipfile.ZipInfo(f"{file_id}.txt", (2020, 1, 1, 0, 0, 0))
    entry.create_system = 3  # the same bytes on every system
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as zipped:
        zipped.writestr(entry, line * (LINES + file_id % 64))
    return made.getvalue()


def at_once(luck: random.Random) -> float:
    """A `Latency` of nothing."""
    return 0.0


class FileService:
    """
    The one route of the file source, ``GET /files/{id}``.

    Args:
        rng: decides which calls fail.
        delay: how long a whole file takes, the same each time for one file. An answer with a part of it takes
            that part of the time.
        failure, drop: share of calls that are answered with a 500, and of answers that break off in the
            middle, 0 to 1.

    Attributes:
        calls: how many there were.
        editions: of files that were changed; the others have edition 0.
    """

    def __init__(
        self, rng: random.Random, delay: Latency = at_once, failure: float = 0.0, drop: float = 0.0
    ) -> None:
        self._rng = rng
        self._delay = delay
        self.failure = failure
        self.drop = drop
        self.calls = 0
        self.editions: dict[int, int] = {}

    def add_to(self, app: web.Application) -> None:
        """Bind the route."""
        app.router.add_get(r"/files/{id:\d{1,9}}", self._get, allow_head=False)

    def change(self, file_id: int) -> None:
        """From now on the file has other bytes, and another ETag."""
        self.editions[file_id] = self.editions.get(file_id, 0) + 1

    def takes(self, file_id: int) -> float:
        """Seconds for the whole file."""
        return self._delay(random.Random(file_id))

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        file_id = int(request.match_info["id"])
        if not has_file(file_id):
            return web.json_response({"error": "no such file"}, status=404)
        edition = self.editions.get(file_id, 0)
        etag = f'"{file_id}-{edition}"'
        if request.headers.get("If-Match", etag) != etag:
            return web.json_response({"error": "the file has changed"}, status=412)
        body = archive(file_id, edition)
        total = len(body)
        first, end = _range(request, total)
        if first >= end:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{total}"})
        body = body[first:end]  # a thousand callers may wait at once; the rest is not kept for them
        await asyncio.sleep(self.takes(file_id) * len(body) / total)
        if self._rng.random() < self.failure:
            return web.json_response({"error": "the simulator was told to fail"}, status=500)
        answer = web.StreamResponse(headers={"ETag": etag, "Content-Type": "application/zip"})
        answer.content_length = len(body)
        if "Range" in request.headers:
            answer.set_status(206)
            answer.headers["Content-Range"] = f"bytes {first}-{end - 1}/{total}"
        await answer.prepare(request)
        if self._rng.random() < self.drop:
            await answer.write(body[: len(body) // 2])
            if request.transport is not None:
                request.transport.close()
        else:
            await answer.write(body)
        return answer


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """The first byte that is asked for, and the one after the last."""
    try:
        first, end, _ = request.http_range.indices(size)
    except ValueError:
        return 0, 0
    return first, end
