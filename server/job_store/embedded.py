"""The embedded job store: a Valkey in a folder, kept running for all server processes that share the folder.

Whoever finds none starts one, and starts it again when it is gone; the last one out stops it. A server that
is killed leaves it running, for the next to find. It does not know what is kept there, and never kills one
that hangs: that would be to guess.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from server.job_store.valkey_process import Child, Files, Users, find_binary, lives, start
from server.job_store.valkey_wire import Wire, open_wire

log = logging.getLogger("hedgerow.job_store")

TURN = 0.02
"""Seconds between looks at another process that is about to start or to end."""
BEAT = 1.0
"""Seconds between looks at one that is well. When it ends, its connection tells at once."""
LATE = 2.0
"""Seconds without an answer after which it is said to hang."""
UNSEEN = 10.0
"""Seconds after which a process that lives and does not listen is spoken of."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between attempts to start one that ends at once."""
BURIAL = 0.5
"""Seconds between the end of a connection and the end of the process, if that is why it ended."""
STOPS = 5.0
"""Seconds that stopping it may take. One that takes longer is left to itself."""
ROOM, ENOUGH = 32 * 2**20, 40 * 2**20
"""
Bytes of disk below which it is told to take nothing new, and above which it may again. Valkey with
``appendfsync always`` ends itself when it cannot write, so what is left is for the changes that it does not
refuse: those that need no more memory, such as the end of a job.
"""


@asynccontextmanager
async def embedded_valkey(folder: Path) -> AsyncIterator[str]:
    """
    The URL of the Valkey in *folder*, which will be there as soon as it can be.

    Raises:
        JobStoreError: if there never can be one: an unknown kind of machine, a folder that cannot be used.
    """
    binary, files = find_binary(), Files(folder)
    keeper = Keeper(files, binary)
    task = asyncio.create_task(keeper.keep(), name="keeping the embedded job store")
    try:
        yield f"unix://{quote(str(files.socket))}"
    finally:
        task.cancel()
        await asyncio.wait({task})
        await keeper.leave()
        if not task.cancelled():
            task.result()


class Keeper:
    """Keeps the Valkey of *files* running. `keep` until it is cancelled, then `leave`."""

    def __init__(self, files: Files, binary: Path) -> None:
        self._files = files
        self._binary = binary
        self._users = Users(files)
        self._child: Child | None = None
        self._well = False
        self._pause = FIRST_PAUSE
        self._full = False
        self._unseen = 0

    async def keep(self) -> None:
        """Never ends by itself."""
        await _until(self._users.join)
        while True:
            wire = await open_wire(self._files.socket) or await self._start()
            if wire is not None:
                async with wire:
                    await self._watch(wire)
            await self._bury()

    async def leave(self) -> None:
        """Use it no longer; stop it if nobody else does."""
        try:
            if self._users.leave():
                await self._stop()
        finally:
            self._users.close()

    async def _start(self) -> Wire | None:
        """A connection to a new one; None if one lives already, or the new one does not listen."""
        try:
            child = start(self._files, self._binary)
        except OSError as error:
            await self._failed(str(error))
            return None
        if child is None:
            self._look_for_another()
            return None
        log.info("Starting the embedded job store in %s.", self._files.folder)
        before, self._child = self._child, child
        self._well, self._unseen = False, 0
        if before is not None:  # it lives, but not in this folder: the one that it had was removed
            before.signal(signal.SIGKILL)
            await _until(before.has_ended)
        with suppress(TimeoutError):
            async with asyncio.timeout(UNSEEN):
                while not child.has_ended():
                    if (wire := await open_wire(self._files.socket)) is not None:
                        return wire
                    await asyncio.sleep(TURN)
        return None

    def _look_for_another(self) -> None:
        """One lives and does not listen: it begins, it ends, or its socket was removed."""
        if self._child is not None:  # ours has had its time to begin
            self._child.signal(signal.SIGTERM)
        self._unseen += 1
        if self._unseen == round(UNSEEN / TURN):
            log.error(
                "A Valkey is running in %s, but not listening at %s. If it stays so, stop that process; "
                "then it is started again.",
                *(self._files.folder, self._files.socket),
            )

    async def _watch(self, wire: Wire) -> None:
        """Look after the one at the other end, until it is gone or cannot be found by others."""
        told: bool | None = None
        while answer := await self._ask(wire, "PING"):
            if answer == "+PONG":
                self._well, self._pause, self._unseen = True, FIRST_PAUSE, 0
                self._full = not self._files.has_room(ENOUGH if self._full else ROOM)
                if self._full is not told:
                    told = self._full
                    await self._tell_room(wire)
            if await wire.lost(BEAT) or not self._files.listed():
                break
        if self._well:
            log.warning(
                "The connection to the embedded job store is lost; if it has gone, it is started again."
            )

    async def _ask(self, wire: Wire, command: str) -> str:
        """The answer, for which there is no limit of time; "" if it is gone."""
        wire.say(command)
        try:
            async with asyncio.timeout(LATE):
                return await wire.answer()
        except TimeoutError:
            log.warning(
                "The embedded job store does not answer. It is left alone: it may be loading, or halted."
            )
        answer = await wire.answer()
        if answer:
            log.warning("The embedded job store answers again.")
        return answer

    async def _tell_room(self, wire: Wire) -> None:
        """It refuses what is new when it is above its ``maxmemory``, and takes changes that need no room."""
        if self._full:
            log.error("The disk of %s is full: no new jobs are taken.", self._files.folder)
        await self._ask(wire, f"CONFIG SET maxmemory {int(self._full)}")

    async def _bury(self) -> None:
        """If ours has ended, take note; if that was all that it did, do not start the next one at once."""
        if self._child is None:
            await asyncio.sleep(TURN)
            return
        try:
            async with asyncio.timeout(BURIAL):
                await _until(self._child.has_ended)
        except TimeoutError:
            return
        child, self._child = self._child, None
        if not self._well:
            await self._failed(f"it ended with {child.code}: {child.last_words()}")

    async def _failed(self, why: str) -> None:
        full = "" if self._files.has_room(ROOM) else "The disk is full. "
        log.error(
            "The embedded job store does not start: %s. %sIt is tried again in %g seconds.",
            *(why, full, self._pause),
        )
        await asyncio.sleep(self._pause)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    async def _stop(self) -> None:
        try:
            async with asyncio.timeout(STOPS):
                await self._ask_to_end()
                await _until(lambda: not lives(self._files))
                if self._child is not None:
                    await _until(self._child.has_ended)
        except TimeoutError:
            log.warning("The embedded job store does not end. It is left to itself.")
        else:
            self._files.socket.unlink(missing_ok=True)

    async def _ask_to_end(self) -> None:
        if self._child is not None:
            self._child.signal(signal.SIGTERM)
            return
        wire = await open_wire(self._files.socket)
        if wire is not None:
            async with wire:
                wire.say("SHUTDOWN NOSAVE NOW FORCE")  # what it has acknowledged, it has written
                await wire.answer()


async def _until(so: Callable[[], bool]) -> None:
    """Wait for another process, which has no event to wait for."""
    while not so():  # noqa: ASYNC110
        await asyncio.sleep(TURN)
