"""Another server process, as far as the job store sees it: `python opener.py FOLDER`.

It opens the store when it gets a line, says which process it found, and leaves at the end of its input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from server.job_store import opening
from server.job_store.opening import JobStoreConfig, open_job_store
from tests.job_store.stores import STARTS_WITHIN


async def main(folder: Path) -> None:
    await asyncio.to_thread(sys.stdin.readline)
    opening.EMBEDDED_STARTS = STARTS_WITHIN  # a machine that runs many tests may be slow to start a process
    async with open_job_store(JobStoreConfig(None, folder, STARTS_WITHIN)) as store:
        await store.redis.set("opener", "was here")
        found = await store.redis.info("server")
        sys.stdout.write(f"{found['process_id']}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
