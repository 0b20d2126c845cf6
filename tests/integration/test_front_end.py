"""docs/examples/follow.html and follow.js in a real browser, from another origin than the API's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import redis
from aiohttp import web
from aiohttp.test_utils import TestServer

from server.downloads import handlers
from server.lifespan import DOWNLOADS
from server.serve import listen
from tests.downloads import whole
from tests.downloads.whole import BASE, Files, Site, be_patient, hosted, source_of_files
from tests.integration.browser import Page, browser
from tests.integration.nginx import free_port
from tests.job_store.stores import Valkey, valkey
from tests.server.raw import until
from upstream.simulator.files import archive

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TEXTS = "[...document.querySelectorAll('[role=status]')].map((one) => one.textContent)"
LINKS = "[...document.links].map((one) => one.href)"
RUNNING = f"{TEXTS}.some((one) => one.startsWith('running'))"
ASKED = "performance.getEntriesByType('resource').filter((one) => one.name.includes('/status/')).length"
SAID = """globalThis.said = [];
new MutationObserver(() => said.push(document.querySelector('[role=status]')?.textContent))
    .observe(document, {subtree: true, childList: true});"""
OPENED = """globalThis.opened = 0;
globalThis.EventSource = class extends EventSource {
    constructor(...all) { super(...all); opened += 1; }
};"""
CANCEL = "[...document.querySelectorAll('section button')].at(-1).click()"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A job store for all tests here."""
    with valkey(tmp_path_factory.mktemp("front"), appendfsync="no") as running:
        yield running


@pytest.fixture
async def files() -> AsyncIterator[Files]:
    """A source of files, which holds back what is asked of it until a test lets it go."""
    async with source_of_files() as played:
        played.hold()
        yield played


class Api:
    """
    Where the API is, whether or not a server is there just now.

    Attributes:
        url: its origin.
        start: starts a server there with the given settings; gives a caller of it.
    """

    def __init__(self, port: int, **always: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.start = partial(hosted, **always)


@pytest.fixture
def api(store: Valkey, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The API, of which nothing is left but what is on disk when its server ends."""
    with redis.Redis.from_url(store.url) as client:
        client.flushall()
    be_patient(monkeypatch)
    port = free_port()
    monkeypatch.setattr(whole, "listen", lambda host, _: listen(host, port))
    return Api(port, REDIS_URL=store.url, DATA_DIR=str(tmp_path / "data"), DOWNLOAD_SOURCE_URL=files.url)


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    """An empty page of a browser."""
    async with browser(tmp_path / "browser") as opened:
        yield opened


@asynccontextmanager
async def shown(page: Page, api: Api, **changes: str) -> AsyncIterator[None]:
    """The example in *page*, with those changes to its constants."""

    async def example(request: web.Request) -> web.Response:
        text = (EXAMPLES / request.match_info["name"]).read_text("utf-8")
        text = text.replace('data-api=""', f'data-api="{api.url}"')
        for name, value in changes.items():
            text = text.replace(f"const {name} =", f"const {name} = {value} ??")
        kind = "text/javascript" if request.path.endswith("js") else "text/html"
        return web.Response(text=text, content_type=kind)

    app = web.Application()
    app.router.add_get("/{name:follow.+}", example)
    async with TestServer(app) as server:
        await page.call("Page.enable")
        await page.call("Page.navigate", url=str(server.make_url("/follow.html")))
        await page.until("document.readyState === 'complete' && document.forms.length")
        yield


async def download(page: Page, *file_ids: int) -> None:
    """Ask for those files, as a person would."""
    wanted = json.dumps(", ".join(map(str, file_ids)))
    await page.value(f"document.forms[0].elements.files.value = {wanted}; document.forms[0].requestSubmit()")


async def followed(site: Site, streams: int) -> None:
    """Wait until the server serves so many streams."""
    async with asyncio.timeout(20):
        await until(lambda: len(site.app[DOWNLOADS].service.streams) == streams)


async def states(site: Site) -> list[str]:
    """Of all jobs there are, the newest first."""
    return [job["status"] for job in (await site.get(f"{BASE}/jobs")).told["jobs"]]


async def finished(page: Page, site: Site, *file_ids: int) -> None:
    """Wait until the page has a link to each of those files, and follow them."""
    await page.until(f"{LINKS}.length === {len(file_ids)}")
    found = [await site.get(link.removeprefix(site.url)) for link in await page.value(LINKS)]
    assert sorted(each.body for each in found) == sorted(map(archive, file_ids))


async def test_a_download_is_followed_by_its_events_to_its_links(api: Api, page: Page, files: Files) -> None:
    async with api.start() as site, shown(page, api):
        await download(page, 70000, 70007, 70001)
        await followed(site, 1)
        await page.until(RUNNING)
        files.open.set()
        await page.until(f"{TEXTS}[0] === 'completed'")
        await finished(page, site, 70000, 70007)
        rows = await page.value("[...document.querySelectorAll('li')].map((one) => one.innerText.trim())")
        assert [row.split() for row in rows] == [
            ["70000", "70000.zip"],
            ["70007", "70007.zip"],
            ["70001", "failed"],
        ]
        await followed(site, 0)


async def test_a_page_that_is_loaded_again_goes_on_with_the_same_job(
    api: Api, page: Page, files: Files
) -> None:
    async with api.start() as site, shown(page, api):
        await download(page, 70000)
        await page.until(RUNNING)
        await page.call("Page.addScriptToEvaluateOnNewDocument", source=SAID)
        await page.call("Page.reload")
        await page.until(f"globalThis.said && {RUNNING}")
        files.open.set()
        await finished(page, site, 70000)
        assert "completed" in await page.value("said")
        assert not [one for one in await page.value("said") if "queued" in (one or "")], (
            "what was is told again"
        )
        assert await states(site) == ["completed"]
        assert await page.value("sessionStorage.getItem('downloads')") == "[]"


async def test_a_server_that_is_started_again_is_found_again(api: Api, page: Page, files: Files) -> None:
    async with shown(page, api):
        async with api.start():
            await download(page, 70000)
            await page.until(RUNNING)
        files.open.set()
        async with api.start() as site:
            await finished(page, site, 70000)
            assert await states(site) == ["completed"]


async def test_several_downloads_are_followed_side_by_side_and_one_is_cancelled(
    api: Api, page: Page, files: Files
) -> None:
    async with api.start() as site, shown(page, api):
        await download(page, 70000)
        await download(page, 70007)
        await followed(site, 2)
        await page.until(f"{TEXTS}.every((one) => one.startsWith('running'))")
        await page.value(CANCEL)
        await page.until(f"{TEXTS}.at(-1) === 'cancelled'")
        files.open.set()
        await finished(page, site, 70007)
        assert sorted(await states(site)) == ["cancelled", "completed"]


async def test_asking_twice_for_the_same_files_makes_one_job(api: Api, page: Page, files: Files) -> None:
    async with api.start() as site, shown(page, api):
        await page.value("for (let i = 0; i < 5; i++) document.forms[0].requestSubmit()")
        await followed(site, 4)
        assert len(await states(site)) == 1


async def test_a_browser_without_streams_asks_for_the_status(api: Api, page: Page, files: Files) -> None:
    await page.call("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.EventSource")
    async with api.start() as site, shown(page, api):
        await download(page, 70000)
        await page.until(RUNNING)
        files.open.set()
        await finished(page, site, 70000)


async def test_streams_that_are_refused_are_given_up_for_the_status(
    api: Api, page: Page, files: Files
) -> None:
    async with (
        api.start(SSE_STREAMS_PER_CLIENT="1") as site,
        shown(page, api),
        site.follow(await site.job(70000)),
    ):
        await download(page, 70007)
        await page.until(RUNNING)
        files.open.set()
        await finished(page, site, 70007)


async def test_streams_that_tell_nothing_are_given_up_for_the_status(
    api: Api, page: Page, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(request: web.Request, *_: object) -> web.StreamResponse:
        """What a proxy that holds events back makes of a stream."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await asyncio.Event().wait()
        return response

    monkeypatch.setattr(handlers, "stream", silent)
    # Counted in the page: one that was given up may not have reached the server.
    await page.call("Page.addScriptToEvaluateOnNewDocument", source=OPENED)
    async with api.start() as site, shown(page, api, SILENCE="100"):
        await download(page, 70000)
        await page.until(f"{ASKED} >= 5")
        assert await page.value("opened") == 3
        files.open.set()
        await finished(page, site, 70000)


async def test_a_refusal_is_shown_and_not_asked_for_again(api: Api, page: Page) -> None:
    async with api.start() as site, shown(page, api):
        await download(page, 100)
        await page.until(f"{TEXTS}[0].length > 0")
        assert await states(site) == []
        assert await page.value("sessionStorage.getItem('downloads')") == "[]"
