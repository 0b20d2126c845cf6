"""One attempt over the shared session, and the one place where its outcome is judged.

Whatever happens on the wire comes back as an outcome with its verdict; what is raised is a bug or a
cancellation. It keeps no time of its own: whoever waits for it bounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from urllib.parse import quote

import aiohttp
from yarl import URL

from strategies import Answered, Attempt, Failed, Outcome, Verdict
from upstream.call import GET, Answer, Call
from upstream.faults import FAULTS, TooLarge, detail_of, reason_of
from upstream.spec import UpstreamSpec


class HttpTransport:
    """
    A `strategies.Fetch` for one upstream: sends the `Call` that an attempt carries (a plain GET if none).
    """

    def __init__(
        self, session: aiohttp.ClientSession, spec: UpstreamSpec, clock: Callable[[], float]
    ) -> None:
        self._session = session
        self._spec = spec
        self._url = URL(spec.url)
        self._clock = clock

    async def __call__(self, attempt: Attempt) -> Outcome:
        payload = attempt.target.payload
        call = payload if isinstance(payload, Call) else GET
        started = self._clock()
        try:
            answer = await self._exchange(call, attempt)
        except FAULTS as error:
            return Failed(attempt, started, self._clock(), reason_of(error), detail_of(error))
        return judge(self._spec, attempt, started, self._clock(), answer)

    async def _exchange(self, call: Call, attempt: Attempt) -> Answer:
        url = below(self._url, call.segments) if call.segments else self._url
        headers = call.headers if call.body is None else (_JSON, *call.headers)
        if call.traceparent:
            headers = (*headers, ("traceparent", call.traceparent))
        response = await self._session.request(
            call.method,
            url,
            data=call.body,
            headers=headers,
            allow_redirects=False,
            trace_request_ctx=attempt,
        )
        try:
            body = await _read(response, self._spec.max_body)
        except BaseException:
            response.close()  # half-read: the connection is of no further use
            raise
        return Answer(response.status, response.headers, body)


def below(url: URL, segments: Iterable[str]) -> URL:
    """*url* with *segments* appended to its path, encoded so that each stays one segment and none climbs."""
    path = "/".join([url.raw_path.rstrip("/"), *map(_encoded, segments)])
    return URL.build(
        scheme=url.scheme,
        authority=url.raw_authority,
        path=path,
        query_string=url.raw_query_string,
        encoded=True,
    )


def _encoded(segment: str) -> str:
    return quote(segment, safe="") if segment.strip(".") else segment.replace(".", "%2E")


_JSON = ("Content-Type", "application/json")


def judge(spec: UpstreamSpec, attempt: Attempt, started: float, ended: float, answer: Answer) -> Answered:
    """The verdict on a complete answer: a success has a status and a body that its upstream's rules take."""
    if answer.status not in spec.statuses:
        # A 4xx is the upstream's word on the request, not a sign that it is unwell.
        ours = 400 <= answer.status < 500 and answer.status not in (408, 429)
        verdict = Verdict.IGNORED if ours else Verdict.FAILURE
        detail = f"status {answer.status}"
        return Answered(attempt, started, ended, verdict, answer, "http_error", detail, _pause(answer))
    if complaint := spec.accept(answer.body):
        return Answered(attempt, started, ended, Verdict.FAILURE, answer, "invalid_payload", complaint)
    return Answered(attempt, started, ended, Verdict.SUCCESS, answer)


def _pause(answer: Answer) -> float | None:
    """Seconds that a 429 or 503 asks us to wait; 0.0 for a date, which nobody reads more closely."""
    text = answer.headers.get("Retry-After", "") if answer.status in (429, 503) else ""
    if not text:
        return None
    return float(text) if text.isascii() and text.isdigit() else 0.0


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body, decoded, but never more than one read beyond *limit*."""
    if (response.content_length or 0) > limit:
        raise TooLarge(f"the body of {response.content_length} bytes is over the limit of {limit}")
    body = await response.content.readany()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > limit:
            break
    if len(body) > limit:
        raise TooLarge(f"the body is over the limit of {limit} bytes")
    return body
