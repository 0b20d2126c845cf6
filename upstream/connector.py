"""aiohttp's connector and protocol, mended where 3.14.5 mixes answers or hangs.

Bytes that come on an idle connection were handed to the next call as its answer, a chunk that turned
malformed after the head left the reader of the body waiting, and interim answers were read without end. There
is no public way in; tests show all three against every aiohttp that is installed, and would tell if the
private names went away.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import set_exception
from aiohttp.http_exceptions import BadHttpMessage

from upstream.call import MAX_INTERIM


class _Protocol(ResponseHandler):
    """One connection that knows whether anybody has asked for anything."""

    _idle = False
    _interim = 0

    def set_response_params(self, **params: Any) -> None:
        self._idle = False
        self._interim = 0
        super().set_response_params(**params)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """One more message for whoever waits for the answer."""
        if 100 <= data[0].code < 200:
            self._interim += 1
        if self._interim <= MAX_INTERIM:
            super().feed_data(data, size)
        elif self.exception() is None:
            self.set_exception(BadHttpMessage("Too many interim answers"))

    def data_received(self, data: bytes) -> None:
        if self._idle and data:  # without data it only resumes what it had
            self.abort()  # the next request would take these bytes for its answer
            return
        payload = self._payload
        super().data_received(data)
        error = self._exception
        if error is not None and payload is not None and not payload.is_eof() and payload.exception() is None:
            # the C parser tells the protocol, but not whoever reads the body
            set_exception(
                payload, aiohttp.ClientPayloadError("the body is malformed"), error.__cause__ or error
            )


class Connector(aiohttp.TCPConnector):
    """A `TCPConnector` whose idle connections take no bytes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._factory = partial(_Protocol, loop=self._loop)  # type: ignore[assignment]

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        protocol._idle = True
        super()._release(key, protocol, should_close=should_close)
