"""Stores to test: a local folder behind a real HTTP server, and a bucket in a real S3 server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import redis
from aiobotocore.session import get_session
from aiohttp import web
from aiohttp.test_utils import TestServer
from prometheus_client import CollectorRegistry

from server.access_log import AccessLog
from server.downloads import s3_objects
from server.downloads.local_objects import LocalObjects, open_local_objects
from server.downloads.object_routes import ObjectHandler, add_object_routes
from server.downloads.s3_objects import S3Config, open_s3_objects
from server.downloads.signed_urls import UrlSigner
from server.edge import Edge, decorate_all, middleware
from server.headers import Decorator
from server.lifecycle import Lifecycle
from server.lifespan import NO_TRIAL, Trial
from server.telemetry import Telemetry
from tests.downloads.places import Clock, LocalPlace, Place, S3Place
from tests.downloads.seaweed import S3Server, seaweed
from tests.downloads.whole import Files, Site, be_patient, hosted, source_of_files
from tests.job_store.stores import Valkey, valkey

Start: TypeAlias = Callable[..., Awaitable[Site]]

SECRET = b"0123456789abcdef0123456789abcdef"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores are slow where this machine is; they are given up only where a test is about that."""
    be_patient(monkeypatch)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server; one for all tests of a process."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as own:
        yield own.server


def config_for(server: S3Server, **changes: Any) -> S3Config:
    """How that server is reached."""
    return S3Config(
        **{
            "bucket": "downloads",
            "endpoint": server.endpoint,
            "access_key_id": server.access_key_id,
            "secret_access_key": server.secret_access_key,
            **changes,
        }
    )


@pytest.fixture(scope="session")
def descriptions() -> Iterator[None]:
    """The library reads its descriptions of S3 from files, for every session anew; here once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_objects, "get_session", cache(get_session))
        yield


@pytest.fixture
async def s3(descriptions: None, s3_server: S3Server) -> AsyncIterator[S3Place]:
    """The bucket ``downloads`` of the real server."""
    clock = Clock(time.time())
    async with open_s3_objects(config_for(s3_server), clock) as store:
        await store.prepare()
        yield S3Place(store, store._client, "downloads", clock)


@asynccontextmanager
async def local_place(folder: Path, stall: float = 60.0, **settings: Any) -> AsyncIterator[LocalPlace]:
    """A local store, and a server with the application's middleware that serves it."""
    clock = Clock(time.time())
    signer = UrlSigner(SECRET, clock)
    opened: list[LocalObjects] = []
    edge = Edge(Telemetry(CollectorRegistry()), AccessLog("all"), time.monotonic)
    app = web.Application(middlewares=[middleware(edge, Lifecycle())])
    decorate_all(app, Decorator(("*",)))
    handler = ObjectHandler(lambda: opened[0], lambda: signer, stall)
    add_object_routes(app, handler)
    async with TestServer(app) as server:
        base = str(server.make_url(""))
        async with open_local_objects(folder, signer, clock, base=base, **settings) as store:
            opened.append(store)
            await store.prepare()
            yield LocalPlace(store, folder, clock)


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalPlace]:
    """A local store with its usual settings."""
    async with local_place(tmp_path / "objects", reserve=0) as place:
        yield place


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    """Either store: what is told of it has to hold for both."""
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A job store for all tests of a process that do not harm it."""
    with valkey(tmp_path_factory.mktemp("valkey"), appendfsync="no") as store:
        yield store


@pytest.fixture
def job_store(shared_store: Valkey) -> str:
    """The URL of an empty job store."""
    with redis.Redis.from_url(shared_store.url) as client:
        client.flushall()
    return shared_store.url


@pytest.fixture
async def start(job_store: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Start the whole application with the given settings; returns a caller of it. All end with the test."""
    async with AsyncExitStack() as stack:

        async def begin(trial: Trial = NO_TRIAL, **environ: str) -> Site:
            given = {"REDIS_URL": job_store, "DATA_DIR": str(tmp_path / "data"), **environ}
            return await stack.enter_async_context(hosted(trial, **given))

        yield begin


@pytest.fixture
async def site(start: Start) -> Site:
    """The whole application; files are there at once."""
    return await start()


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    """A source of files that the test plays."""
    async with source_of_files() as played:
        yield played


@pytest.fixture
async def slow(files: Files, start: Start) -> Site:
    """The whole application in front of `files`, which hold back what is asked of them."""
    files.hold()
    return await start(DOWNLOAD_SOURCE_URL=files.url)
