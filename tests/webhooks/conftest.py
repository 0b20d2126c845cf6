"""An eye on every connection that is begun."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


@pytest.fixture
async def dialled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The address of every TCP connection that this loop begins, in order, whether anybody listens or not."""
    seen: list[tuple[str, int]] = []
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def spy(sock: Any, address: Any) -> None:
        seen.append((address[0], address[1]))
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", spy)
    return seen
