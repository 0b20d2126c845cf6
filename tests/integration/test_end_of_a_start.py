"""SIGTERM while a process starts: it ends, and what it had begun is no hindrance to the next one."""

from __future__ import annotations

import signal
from pathlib import Path

import aiohttp
import pytest

from server.job_store.opening import FOLDER
from server.job_store.valkey_process import Files, lives
from tests.integration.test_worker_process import QUICK, initiate, processes, until

ASKED_TO_END = """
import importlib, os, signal
owner, name = importlib.import_module({module!r}), {name!r}
begin = getattr(owner, name)
def asked_to_end(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    return begin(*arguments, **options)
setattr(owner, name, asked_to_end)
"""
"""Code for a process that is sent SIGTERM as that function is called."""
MOMENTS = {
    ("server.__main__", "rest_memory"): -signal.SIGTERM,  # nothing has been begun that would have to be ended
    ("server.job_store.embedded", "start"): 0,
    ("server.downloads.service", "working"): 0,
    ("server.serve", "Listener"): 0,
}
"""Steps of a start, with how the process ends."""


@pytest.mark.fault(82)
async def test_sigterm_at_a_step_of_a_start_ends_it_and_the_next_start_works(tmp_path: Path) -> None:
    async with processes(tmp_path, DATA_DIR=str(tmp_path / "data"), **QUICK) as start:
        for (module, name), code in MOMENTS.items():
            before = ASKED_TO_END.format(module=module, name=name)
            ending = await start("--port", "0", before=before, ready=False)
            assert await ending.ended() == code, (name, ending.log.read_text())
            assert not lives(Files(tmp_path / "data" / FOLDER)), name
        server = await start("--port", "0")
        assert server.url is not None
        async with aiohttp.ClientSession() as http:
            job = await initiate(http, server.url, 70000)
            await until(http, server.url, job, lambda found: found["status"] == "completed")
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0
        assert not lives(Files(tmp_path / "data" / FOLDER))
