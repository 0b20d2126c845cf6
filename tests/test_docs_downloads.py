"""The pages about downloads say what is true: their lists are held against the code, their snippet is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast
from unittest.mock import Mock

import pytest
from aiohttp import web

from server.downloads.handlers import DownloadHandlers
from server.downloads.jobs import JobState
from server.downloads.routes import add_download_routes
from server.rate_limits import CODE
from server.webhooks.schedule import DELAYS
from server.webhooks.signing import new_secret, sign
from tests.test_docs import DOCS, ROOT, blocks

PAGE = (DOCS / "reference" / "downloads.rst").read_text("utf-8")
WEBHOOKS = (DOCS / "reference" / "webhooks.rst").read_text("utf-8")
CODES = re.compile(r'Problem\(\s*\d{3},\s*f?"(\w+(?:\{[^}]*\})?)"')
KINDS = re.compile(r"change\(job, '(\w+)'|kind = '(\w+)'")


def sources(folder: str, pattern: str) -> str:
    """The text of all files of that kind."""
    return "\n".join(path.read_text("utf-8") for path in sorted((ROOT / folder).glob(pattern)))


def test_every_route_of_the_download_api_is_in_the_reference() -> None:
    """Each path has its heading."""
    app = web.Application()
    add_download_routes(app, cast(DownloadHandlers, Mock()))
    served = {f"{route.method} {route.resource.canonical}" for route in app.router.routes() if route.resource}
    assert len(served) >= 8
    assert {one for one in served if not one.startswith("HEAD") and f"\n{one}\n----" not in PAGE} == set()


def test_every_code_of_the_download_api_is_in_the_reference() -> None:
    """A client that looks a code up finds it."""
    found = {*CODES.findall(sources("server/downloads", "*.py")), CODE}
    codes = {code for code in found if "{" not in code} | {
        f"job_{state}" for state in JobState if any(code.startswith("job_{") for code in found)
    }
    assert {"too_many_streams", "job_store_full", "job_cancelled"} <= codes
    assert {code for code in codes if f"``{code}``" not in PAGE} == set()


def test_every_kind_of_event_is_in_the_reference() -> None:
    """Those of the record's scripts, the ends of a job, and what the feed adds."""
    written = sources("server/downloads/record_scripts", "*.lua")
    kinds = {one for pair in KINDS.findall(written) for one in pair if one}
    assert {"queued", "running", "progress", "file"} <= kinds
    ends = {"completed", "failed", "cancelled", "resync"}
    assert {kind for kind in kinds | ends if f"``{kind}``" not in PAGE} == set()


@pytest.fixture
def is_genuine() -> Callable[..., bool]:
    """The function of the page."""
    [(_, code)] = blocks(WEBHOOKS, "python")
    names: dict[str, object] = {}
    exec(compile(code, "webhooks.rst", "exec"), names)  # noqa: S102 - our own page
    return cast(Callable[..., bool], names["is_genuine"])


def test_the_receiver_of_the_page_takes_what_we_sign_with_either_secret(
    is_genuine: Callable[..., bool],
) -> None:
    new, old = new_secret(), new_secret()
    headers: Mapping[str, str] = sign([new, old], "id_1-0", 1_000_000.0, b'{"a":1}')
    assert is_genuine(new, headers, b'{"a":1}', 1_000_010)
    assert is_genuine(old, headers, b'{"a":1}', 1_000_010)


def test_the_receiver_of_the_page_refuses_what_is_changed_old_or_of_others(
    is_genuine: Callable[..., bool],
) -> None:
    secret = new_secret()
    headers = sign([secret], "id_1-0", 1_000_000.0, b"{}")
    assert not is_genuine(secret, headers, b"{ }", 1_000_000)
    assert not is_genuine(secret, headers, b"{}", 1_000_301)
    assert not is_genuine(secret, headers, b"{}")
    assert not is_genuine(new_secret(), headers, b"{}", 1_000_000)
    assert not is_genuine(secret, {**headers, "webhook-id": "id_2-0"}, b"{}", 1_000_000)


def test_the_schedule_of_webhooks_is_the_one_of_the_page() -> None:
    told = re.search(r"at once, and then (.*?) after the one before", WEBHOOKS, re.DOTALL)
    assert told is not None
    units = {"s": 1, "min": 60, "h": 3600}
    assert [int(n) * units[unit] for n, unit in re.findall(r"(\d+) (s|min|h)\b", told[1])] == [*DELAYS[1:]]


def test_every_folder_of_the_tree_in_the_readme_is_there() -> None:
    tree = (ROOT / "README.rst").read_text("utf-8").partition("The tree\n--------")[2]
    folders = re.findall(r"^``([\w/]+/)``", tree, re.M)
    assert len(folders) >= 6
    assert [folder for folder in folders if not Path(ROOT / folder).is_dir()] == []
