"""A real browser without a screen: Chromium, told what to do over its DevTools protocol."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
STARTS_WITHIN = 60.0
"""Seconds; it takes one."""
WITHIN = 60.0
"""Seconds in which whatever a test waits for in a page comes true."""


NO_PAGE = -32000
"""What the protocol answers when there is nothing that could be asked."""


class BetweenPages(Exception):
    """There is no page at the moment."""


class Page:
    """A page in the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count()

    async def call(self, method: str, **arguments: Any) -> Any:
        """What the browser answers to *method* of its protocol."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": arguments})
        async for message in self._socket:
            told = message.json()
            if told.get("id") == number:
                if told.get("error", {}).get("code") == NO_PAGE:
                    raise BetweenPages(told)
                assert "error" not in told, told
                return told["result"]
        raise AssertionError("the browser has gone")

    async def value(self, expression: str) -> Any:
        """The value of some JavaScript, or what its promise comes to."""
        told = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until that JavaScript is true. It may not yet be there that it could be asked for."""
        async with asyncio.timeout(WITHIN):
            while not await self._so(expression):  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.02)

    async def _so(self, expression: str) -> bool:
        """Not while one page goes and the next comes."""
        try:
            return bool(await self.value(f"Boolean({expression})"))
        except BetweenPages:
            return False


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Page]:
    """An empty page of a browser that has just been installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    assert program, "there is no browser here: apt-get install chromium"
    process = _started(program, folder)
    try:
        async with aiohttp.ClientSession() as session:
            port = await _port(process, folder / "DevToolsActivePort")
            async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as response:
                url = (await response.json())["webSocketDebuggerUrl"]
            async with session.ws_connect(url, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # it is many processes
        process.wait()


def _started(program: str, folder: Path) -> subprocess.Popen[bytes]:
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # it has none for root
    return subprocess.Popen(
        [program, *FLAGS, *sandbox, f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"],
        env={**os.environ, "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def _port(process: subprocess.Popen[bytes], file: Path) -> int:
    """Where it listens, which it writes into a file."""
    async with asyncio.timeout(STARTS_WITHIN):
        while not (told := file.read_text().split() if file.exists() else []):  # noqa: ASYNC240 - it is short
            assert process.poll() is None, "the browser has ended"
            await asyncio.sleep(0.02)
    return int(told[0])
