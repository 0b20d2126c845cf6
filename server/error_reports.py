"""What we log as an error, sent to Sentry as well, for whoever reads no logs at night.

The log is the one way in, so nobody reports a thing twice and no room knows of Sentry but this one. An event
is made only of what our own code says: the text of the log line before anything is put into it, types of
exceptions, frames with their lines of source. What exceptions say and variables hold may quote a caller, and
stays in the log, which is found by the request's id.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from server import __version__
from server.settings import ConfigError

if TYPE_CHECKING:  # only who reports pays for the import, 0.15 s
    import sentry_sdk
    from sentry_sdk.types import Event

OURS = "hedgerow"
"""The logger above all of ours."""
TAGS = {"requestId": "request_id", "route": "route"}
"""What a log line may carry that becomes a tag, and the tag's name."""
ROOM = 100
"""Events that may wait for Sentry; beyond it they are dropped, never waited for."""
AT_ONCE, PER_SECOND = 20, 1.0
"""Events in a burst and in the long run: each takes the loop about 1 ms, and there may be a storm of bugs."""
LAST_WORDS = 1.5
"""Seconds for what still waits at the end."""


def check_dsn(dsn: str | None) -> None:
    """
    Raises:
        ConfigError: *dsn* is not of the form that Sentry hands out. It is not repeated: it is a secret.
    """
    if dsn is None:
        return
    from sentry_sdk.utils import Dsn

    try:
        Dsn(dsn)
    except ValueError:
        raise ConfigError(["SENTRY_DSN: Must be https://KEY@HOST/PROJECT, as Sentry shows it."]) from None


@contextmanager
def error_reports(dsn: str | None, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """
    Report what our loggers log at ERROR while the block runs; without a *dsn* do nothing.

    A thread sends. It does not survive a fork, so each worker opens its own. Leaving blocks for at most
    `LAST_WORDS`, while what waits is sent.

    Args:
        clock: in seconds, for the bound on events.
    """
    if dsn is None:
        yield
        return
    client, ours = _open(dsn), logging.getLogger(OURS)
    handler = _Reporter(client, Allowance(AT_ONCE, PER_SECOND, clock()), clock)
    ours.addHandler(handler)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        client.close(timeout=LAST_WORDS)


def _open(dsn: str) -> sentry_sdk.Client:
    """A client of our own rather than the global one: nothing is patched, and no scope collects anything."""
    import sentry_sdk

    # While Sentry is away it has three lines for each event.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return sentry_sdk.Client(
        dsn,
        release=__version__,
        default_integrations=False,
        auto_enabling_integrations=False,
        enable_backpressure_handling=False,
        include_local_variables=False,
        max_request_body_size="never",
        in_app_include=["server", "strategies", "upstream"],
        transport_queue_size=ROOM,
        spotlight=False,  # or the environment could turn these two on
        debug=False,
    )


class _Reporter(logging.Handler):
    """Makes an event of each log line, within the *allowance*."""

    def __init__(self, client: sentry_sdk.Client, allowance: Allowance, clock: Callable[[], float]) -> None:
        super().__init__(logging.ERROR)
        self._client = client
        self._allowance = allowance
        self._clock = clock

    def emit(self, record: logging.LogRecord) -> None:
        """Queue its event, or drop it and let Sentry know the number at the next occasion."""
        from sentry_sdk.utils import capture_internal_exceptions

        with capture_internal_exceptions():
            if self._allowance.take(self._clock()):
                self._client.capture_event(event_of(record, self._client.options))
            elif self._client.transport is not None:
                self._client.transport.record_lost_event("queue_overflow", "error")


class Allowance:
    """
    A token bucket: *burst* at once, and *rate* a second in the long run.

    Args:
        now: when it begins, full.
    """

    def __init__(self, burst: float, rate: float, now: float) -> None:
        self._burst = self._tokens = burst
        self._rate = rate
        self._at = now

    def take(self, now: float) -> bool:
        """Whether there was one to take."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def event_of(record: logging.LogRecord, options: dict[str, Any]) -> Event:
    """The event for *record*. *options* are the client's, for the stack traces."""
    from sentry_sdk.utils import event_from_exception

    event: Event = {}
    if record.exc_info and record.exc_info[1]:
        event, _ = event_from_exception(record.exc_info, options, {"type": "logging", "handled": True})
        for exception in event["exception"]["values"]:
            del exception["value"]
    tags = {tag: str(vars(record)[name]) for name, tag in TAGS.items() if name in vars(record)}
    return {
        **event,
        "level": "error",
        "logger": record.name,
        "logentry": {"message": str(record.msg)},
        "tags": tags,
    }
