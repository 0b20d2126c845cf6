"""Logs as JSON lines on standard error, written by a thread of its own: a slow reader delays nobody."""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, QueueListener

from pythonjsonlogger.json import JsonFormatter

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
NAMES = {"asctime": "time", "levelname": "level", "name": "logger"}
ROOM = 10_000
"""Lines that may wait for the writer; beyond it they are dropped, never waited for."""


class _Dropping(QueueHandler):
    """Loses lines rather than time when the reader of our log has stopped."""

    def enqueue(self, record: logging.LogRecord) -> None:
        with suppress(queue.Full):
            self.queue.put_nowait(record)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record  # nothing leaves the process, so nothing has to be made fit for pickling


@contextmanager
def logging_to_stderr(level: str) -> Iterator[None]:
    """Log at *level* while the block runs. Control characters are escaped: JSON, ASCII only."""
    writer = logging.StreamHandler()
    writer.setFormatter(JsonFormatter(FORMAT, rename_fields=NAMES, json_ensure_ascii=True))
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(ROOM)
    handler = _Dropping(waiting)
    listener = QueueListener(waiting, writer)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    listener.start()
    try:
        yield
    finally:
        listener.stop()
        root.handlers[:], root.level = before
