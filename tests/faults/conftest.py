"""A whole server on loopback for the faults that callers cause, and what must be true of it afterwards."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from tests.server.raw import Connection, Serve, servers

PATIENCE = 30.0
"""Seconds after which a test that waits has failed."""

ANSWER = tuple[int, dict[str, str], bytes]


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def serve(caplog: pytest.LogCaptureFixture) -> AsyncIterator[Serve]:
    """
    Start a server with the given settings.

    Whatever happened to it, it has nothing to say, and what it had open is closed.
    """
    before, files = asyncio.all_tasks(), open_files()
    async with servers() as start:
        yield start
    before |= {cast(asyncio.Task[Any], asyncio.current_task())}
    async with asyncio.timeout(PATIENCE):
        while asyncio.all_tasks() - before or open_files() > files:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0)
    said = [one for one in caplog.get_records("call") if one.levelno >= logging.WARNING or one.exc_info]
    assert [one.getMessage() for one in said] == []


async def rest(connection: Connection) -> bytes:
    """All that comes until the server closes, in peace or with a reset."""
    read = b""
    async with asyncio.timeout(PATIENCE):
        try:
            while data := await connection.reader.read(65536):
                read += data
        except ConnectionError:
            pass
    return read


async def last_word(connection: Connection, raw: bytes) -> ANSWER:
    """Send *raw*; the one answer, after which the server closes the connection."""
    connection.writer.write(raw)
    return only(await rest(connection))


def only(read: bytes) -> ANSWER:
    """The one response that *read* is: status, headers and body."""
    head, _, body = read.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    assert len(body) == int(headers["Content-Length"]), read
    return int(status.split()[1]), headers, body


def problem(answer: ANSWER) -> tuple[int, str]:
    """Status and code of an answer that is a problem document, with the headers of every answer."""
    status, headers, body = answer
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Server"] == "Hedgerow"
    assert headers["X-Content-Type-Options"] == "nosniff"
    told = json.loads(body)
    assert (told["status"], told["requestId"]) == (status, headers["X-Request-Id"])
    return status, told["code"]
