"""The shared session and the scripted upstream, with an eye on what they leave behind."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses

from tests.upstream import asking
from tests.upstream.asking import Recorder
from tests.upstream.scripted import Script, ScriptedUpstream
from upstream.session import PoolLimits, open_session

Serve = Callable[..., Awaitable[ScriptedUpstream]]


@pytest.fixture(params=["session", "fast lane"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to an upstream have to give the same outcome."""
    name: str = request.param
    monkeypatch.setattr(asking, "PATH", [name])
    return name


@pytest.fixture
def recorder() -> Recorder:
    """An observer that remembers."""
    return Recorder()


@pytest.fixture
async def session(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[aiohttp.ClientSession]:
    """The shared session as the application opens it, watched by *recorder*."""
    monkeypatch.setattr(asking, "OBSERVER", [recorder])
    async with open_session(PoolLimits(), recorder) as opened:
        yield opened


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(script, ...)`` starts a scripted upstream; it is gone, tasks too, when the test ends."""
    before = asyncio.all_tasks()
    async with AsyncExitStack() as stack:

        async def start(*scripts: Script, tls: ssl.SSLContext | None = None) -> ScriptedUpstream:
            return await stack.enter_async_context(ScriptedUpstream(*scripts, tls=tls))

        yield start
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


@pytest.fixture(scope="session")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """The server's side of TLS with a certificate for 127.0.0.1 that nobody has reason to believe."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", str(key), "-out", str(certificate), "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class _WithStreamWriter(aiohttp.ClientResponse):
    """A response that can be made without the writer of its request."""

    def __init__(self, *args: Any, stream_writer: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, stream_writer=stream_writer or Mock(output_size=0), **kwargs)


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """
    aioresponses, mended: 0.7.9 makes its responses without the ``stream_writer`` that aiohttp 3.14 demands,
    so that every mocked answer would raise TypeError.
    """
    monkeypatch.setattr("aioresponses.core.ClientResponse", _WithStreamWriter)
    with aioresponses() as mock:
        yield mock
