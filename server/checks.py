"""What operators ask of a process that is open: whether what it needs is well, and how its upstreams stand.

It reads what `server.lifespan` has opened, and knows nothing of the pages that show it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from aiohttp import web

from server.downloads.objects import StoreError
from server.job_store.opening import JobStoreError
from server.lifespan import CIRCUITS, DOWNLOADS, SESSION
from server.pages import Check
from server.routes import Table


def health_checks(app: web.Application, *, downloads: bool) -> dict[str, Check]:
    """What ``/health`` asks, by name; of stores only if *app* has *downloads*."""
    checks: dict[str, Check] = {"session": partial(_session_is_open, app)}
    if downloads:
        checks["storage"] = partial(_storage_is_well, app)
        checks["jobs"] = partial(_job_store_is_well, app)
    return checks


def standing(app: web.Application, table: Table, now: float) -> Mapping[str, Any]:
    """How each upstream of *table* stands, for ``/ready``. *now* is in seconds of the circuits' clock."""
    return {
        entry.name: {"simulated": entry.url is None, "circuits": app[CIRCUITS].told(entry.name, now)}
        for entry in table.upstreams
    }


async def _session_is_open(app: web.Application) -> bool:
    return not app[SESSION].closed


async def _storage_is_well(app: web.Application) -> bool:
    """Files can be handed out and stored."""
    try:
        await app[DOWNLOADS].service.objects.check()
    except StoreError:
        return False
    return True


async def _job_store_is_well(app: web.Application) -> bool:
    try:
        await app[DOWNLOADS].store.check()
    except JobStoreError:
        return False
    return True
