"""How a request is refused for next to nothing.

A server that takes more than it can do answers everybody late, and refusing costs CPU as well: at several
times the load, 45 µs for each refusal by a handler leave nothing to serve with. So it is done on the bytes,
before they are parsed, and the answer is made of parts that are ready. Whether to refuse, `server.gate` says.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from server.errors import Problem, respond
from server.exchange import new_id, well_formed
from server.gate import RETRY_AFTER, Gate
from server.head import Head
from server.headers import Decorator
from server.plain import date
from upstream.admission import Refusal

CODE = "overloaded"
DETAIL = "The server has more to do than it can in time; come back after 'Retry-After' seconds."


_TIMEOUT = re.compile(r"(?:^|&)timeout=([0-9]{1,9})(?:&|$)")
MARK = "mark"
"""Stands in an answer for what differs from one to the next."""


class Refuser:
    """
    Makes the bytes of a refusal: what `server.errors.respond` and the `Decorator` make, prepared.

    Args:
        origins: whose pages may be told apart, as in ``CORS_ORIGINS``.
    """

    def __init__(self, decorator: Decorator, origins: Iterable[str]) -> None:
        known = [origin for origin in origins if origin != "*"]
        self._tells_origins = bool(known)
        self._templates = {
            (seconds, origin): _template(seconds, origin, decorator)
            for seconds in RETRY_AFTER
            for origin in ("", *known)
        }

    def __call__(self, head: Head, refusal: Refusal, last: bool) -> bytes:
        """The answer to the request *head*; if it is the *last* on its connection, it says so."""
        own, path = (well_formed(head.request_id) or new_id()).encode(), head.path.encode()
        origin = (head.origin or "") if self._tells_origins else ""
        seconds = int(refusal.retry_after)
        template, length = self._templates.get((seconds, origin)) or self._templates[seconds, ""]
        close = b"Connection: close\r\n" if last else b""
        return template % (length + len(path) + len(own), date(int(time.time())), close, own, path, own)


def _template(seconds: int, origin: str, decorator: Decorator) -> tuple[bytes, int]:
    """An answer with gaps (length, date, close, id; path, id), and the length of its body with empty gaps."""
    response = respond(overloaded(seconds), MARK, MARK)
    decorator(response, MARK, origin or None)
    body = response.body
    assert isinstance(body, bytes)  # noqa: S101 - respond() makes it so
    quoted, mark = f'"{MARK}"'.encode(), MARK.encode()
    assert body.count(quoted) == 2  # noqa: S101 - the path and, after it, the id
    del response.headers["X-Request-Id"]
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {text}" for name, text in response.headers.items()]
    fixed = "\r\n".join(lines).encode().replace(b"%", b"%%")
    gaps = b"\r\nContent-Length: %d\r\nDate: %b\r\n%bX-Request-Id: %b\r\n\r\n"
    return fixed + gaps + body.replace(b"%", b"%%").replace(quoted, b'"%b"'), len(body) - 2 * len(mark)


def overloaded(seconds: float) -> Problem:
    """The refusal as a problem, for a request that has got further than the bytes."""
    return Problem(503, CODE, DETAIL, headers={"Retry-After": str(int(seconds))})


class Shedding:
    """
    What one application sheds, and how.

    Args:
        paths: which may be shed, as the router writes them; what is after a ``{`` may be anything.
        default_timeout: seconds, of a request that names no ``timeout``.
        count: told the reason of each refusal that is sent.
    """

    def __init__(
        self,
        gate: Gate,
        refuser: Refuser,
        paths: Iterable[str],
        default_timeout: float,
        count: Callable[[str], None],
    ) -> None:
        paths = tuple(paths)
        self._default_timeout = default_timeout
        self._exact = frozenset(path for path in paths if "{" not in path)
        prefixes = (path.partition("{")[0] for path in paths if "{" in path)
        self._prefixes = tuple(prefix for prefix in prefixes if prefix != "/")
        self.gate = gate
        self.answer = refuser
        self.count = count

    def timeout(self, query: str) -> float:
        """The seconds that a request with this *query* gives, as far as can be told without validation."""
        found = _TIMEOUT.search(query) if query else None
        given = int(found[1]) if found else 0  # 0 is no timeout, and its 400 is not ours to give
        return given / 1000 or self._default_timeout

    def covers(self, path: str) -> bool:
        """Whether a request for *path* may be shed."""
        return path in self._exact or path.startswith(self._prefixes)
