"""What the operator may set: read once, from the environment and ``.env``, into one frozen value.

Every problem is reported at once, by the variable's name. Nothing else in the program reads the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from marshmallow import EXCLUDE, Schema, ValidationError
from marshmallow import fields as f
from marshmallow.validate import Length, OneOf, Range

from server.clients import Network, parse_networks
from server.webhooks.signing import AT_ONCE, check_secret
from upstream.simulator.latency import parse_latency


class ConfigError(Exception):
    """The configuration cannot be used; *problems* says why, one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings, in the units that the program uses inside: seconds and bytes."""

    host: str
    port: int
    workers: int
    request_timeout: float
    header_timeout: float
    body_timeout: float
    access_log: str
    log_level: str
    sentry_dsn: str | None = field(repr=False)
    cors_origins: tuple[str, ...]
    welcome_message: str
    drain_delay: float
    shutdown_timeout: float
    upstream_connections: int
    upstream_connections_per_host: int
    dns_cache: float
    reaper_limit: int
    fast_lane: bool
    event_fetch_concurrency: int
    load_shedding: bool
    breaker_failures: int
    breaker_window: float
    breaker_open_time: float
    breaker_cap: float
    simulator_latency: str
    simulator_failure: float
    simulator_invalid: float
    simulator_hang: float
    simulator_event_failure: float
    simulator_event_delay: float
    simulator_seed: int | None
    downloads: bool
    data_dir: str
    redis_url: str | None = field(repr=False)
    s3_endpoint: str | None
    s3_public_endpoint: str | None
    s3_region: str
    s3_bucket_name: str | None
    s3_access_key_id: str | None = field(repr=False)
    s3_secret_access_key: str | None = field(repr=False)
    s3_force_path_style: bool
    public_url: str
    download_delay_enabled: bool
    download_delay_min: float
    download_delay_max: float
    download_step_timeout: float
    download_jobs: int
    download_jobs_per_client: int
    download_open_jobs_per_client: int
    download_files: int
    download_reuse: float
    download_link: float
    download_keep: float
    download_workers: bool
    sse_streams: int
    sse_streams_per_client: int
    webhook_secrets: tuple[str, ...] = field(repr=False)
    webhook_http: bool
    trusted_proxies: tuple[Network, ...]
    rate_limit: bool
    rate_limit_requests: int
    rate_limit_window: float
    environ: Mapping[str, str] = field(repr=False)
    """The environment as it was read, for the URLs that the route table names."""


class _Milliseconds(f.Integer):
    """Whole milliseconds outside, seconds inside."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        whole = super()._deserialize(value, attr, data, **kwargs)
        return None if whole is None else whole / 1000

    def _validate(self, value: Any) -> None:
        super()._validate(None if value is None else round(value * 1000))


class _Words(f.Field[tuple[str, ...]]):
    """A list, separated by commas."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        words = tuple(word.strip() for word in value.split(",") if word.strip())
        if not words:
            raise ValidationError("Must name at least one.")
        return words


class _Switch(f.Boolean):
    """``on`` or ``off``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(truthy={"on"}, falsy={"off"}, **kwargs)
        self.error_messages["invalid"] = "Must be on or off."


class _Truth(f.Boolean):
    """``true`` or ``false``, as the variables of S3 and of the delay have always been written."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(truthy={"true", "1", "on"}, falsy={"false", "0", "off"}, **kwargs)
        self.error_messages["invalid"] = "Must be true or false."

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return super()._deserialize(value.lower(), attr, data, **kwargs)


class _Networks(f.Field[tuple[Network, ...]]):
    """Addresses and networks, separated by commas."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[Network, ...]:
        try:
            return parse_networks(value)
        except ValueError as error:
            raise ValidationError(str(error)) from error


class _Workers(f.Integer):
    """A whole number, or ``auto``: as many as there are cores that we may run on."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return super()._deserialize(_cores() if value == "auto" else value, attr, data, **kwargs)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _latency(value: str) -> None:
    try:
        parse_latency(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def _url(value: str) -> None:
    if not re.fullmatch(r"https?://[^/?#@\s]+/?", value):
        raise ValidationError("Must be http:// or https://, and a host.")


def _redis_url(value: str) -> None:
    if not re.match(r"(rediss?|unix)://\S+$", value):
        raise ValidationError("Must begin with redis://, rediss:// or unix://.")


def _secret(value: tuple[str, ...]) -> None:
    if len(value) > AT_ONCE:
        raise ValidationError(f"Must be at most {AT_ONCE}.")
    for one in value:
        try:
            check_secret(one)
        except ValueError as error:
            raise ValidationError(str(error)) from error


def _share(name: str, default: float, what: str) -> f.Float:
    return f.Float(data_key=name, load_default=default, validate=Range(0, 1), metadata={"description": what})


class SettingsSchema(Schema):
    """Names, kinds, ranges, defaults and meanings. The reference page is written from this class."""

    class Meta:
        unknown = EXCLUDE  # the environment is full of what is not ours

    host = f.String(
        data_key="HOST", load_default="127.0.0.1", metadata={"description": "Address to listen on."}
    )
    port = f.Integer(
        data_key="PORT",
        load_default=8000,
        validate=Range(0, 65535),
        metadata={"description": "Port to listen on; 0 picks a free one."},
    )
    workers = _Workers(
        data_key="WORKERS",
        load_default=1,
        validate=Range(1, 256),
        metadata={"description": "Processes that serve on the one port; ``auto``: one for each core."},
    )
    request_timeout = _Milliseconds(
        data_key="REQUEST_TIMEOUT_MS",
        load_default=30.0,
        validate=Range(1, 600_000),
        metadata={"description": "The longest ``timeout`` a caller may ask for, and the one without asking."},
    )
    header_timeout = _Milliseconds(
        data_key="HEADER_TIMEOUT_MS",
        load_default=5.0,
        validate=Range(1, 600_000),
        metadata={
            "description": "How long a new connection may be silent, and how long the headers of a request "
            "may take from their first byte."
        },
    )
    body_timeout = _Milliseconds(
        data_key="BODY_TIMEOUT_MS",
        load_default=10.0,
        validate=Range(1, 600_000),
        metadata={"description": "How long the body of a request may take from the end of its headers."},
    )
    access_log = f.String(
        data_key="ACCESS_LOG",
        load_default="all",
        validate=OneOf(["all", "errors", "off"]),
        metadata={"description": "One log line per request: for all, for those that failed, or none."},
    )
    log_level = f.String(
        data_key="LOG_LEVEL",
        load_default="info",
        validate=OneOf(["debug", "info", "warning", "error"]),
        metadata={"description": "The least severe level that is logged."},
    )
    sentry_dsn = f.String(
        data_key="SENTRY_DSN",
        load_default=None,
        metadata={"description": "Where errors are reported (a DSN of Sentry). Unset: only in the log."},
    )
    cors_origins = _Words(
        data_key="CORS_ORIGINS",
        load_default=("*",),
        metadata={"description": "Origins whose pages may call us, separated by commas; ``*`` for all."},
    )
    welcome_message = f.String(
        data_key="WELCOME_MESSAGE",
        load_default="Hello Hedgerow!",
        validate=Length(1, 1000),
        metadata={"description": "What ``GET /`` says."},
    )
    drain_delay = _Milliseconds(
        data_key="DRAIN_DELAY_MS",
        load_default=1.0,
        validate=Range(0, 300_000),
        metadata={
            "description": "After SIGTERM, how long requests are still taken (and connections closed after "
            "each answer) so that callers and load balancers can move away. 5000 suits most balancers."
        },
    )
    shutdown_timeout = _Milliseconds(
        data_key="SHUTDOWN_TIMEOUT_MS",
        load_default=30.0,
        validate=Range(0, 600_000),
        metadata={"description": "How long requests in flight may take to finish after that."},
    )
    upstream_connections = f.Integer(
        data_key="UPSTREAM_CONNECTIONS",
        load_default=10_000,
        validate=Range(1, 1_000_000),
        metadata={"description": "Connections to upstreams, at most, over all of them."},
    )
    upstream_connections_per_host = f.Integer(
        data_key="UPSTREAM_CONNECTIONS_PER_HOST",
        load_default=0,
        validate=Range(0, 1_000_000),
        metadata={"description": "Connections to one host and port, at most; 0 for no such limit."},
    )
    dns_cache = _Milliseconds(
        data_key="DNS_CACHE_MS",
        load_default=30.0,
        validate=Range(1000, 86_400_000),
        metadata={"description": "How long a looked-up address is believed."},
    )
    reaper_limit = f.Integer(
        data_key="REAPER_LIMIT",
        load_default=10_000,
        validate=Range(1, 1_000_000),
        metadata={"description": "Lost attempts still winding down beyond which no hedges are started."},
    )
    fast_lane = _Switch(
        data_key="FAST_LANE",
        load_default=True,
        metadata={
            "description": "The short way to an upstream for plain GETs; off: all through the session."
        },
    )
    event_fetch_concurrency = f.Integer(
        data_key="EVENT_FETCH_CONCURRENCY",
        load_default=100,
        validate=Range(1, 10_000),
        metadata={"description": "Events of one user that are fetched at once, at most."},
    )
    load_shedding = _Switch(
        data_key="LOAD_SHEDDING",
        load_default=True,
        metadata={"description": "Refuse (503) what could not be answered in time; off: take it all."},
    )
    breaker_failures = f.Integer(
        data_key="CIRCUIT_BREAKER_FAILURE_THRESHOLD",
        load_default=3,
        validate=Range(1, 16),
        metadata={"description": "A circuit opens at this many failures within the window."},
    )
    breaker_window = _Milliseconds(
        data_key="CIRCUIT_BREAKER_FAILURE_WINDOW_MS",
        load_default=30.0,
        validate=Range(1, 86_400_000),
        metadata={"description": "How long a failure is remembered while the circuit is closed."},
    )
    breaker_open_time = _Milliseconds(
        data_key="CIRCUIT_BREAKER_RESET_TIMEOUT_MS",
        load_default=10.0,
        validate=Range(1, 86_400_000),
        metadata={
            "description": "How long a circuit stays open the first time; doubled at each failed probe."
        },
    )
    breaker_cap = _Milliseconds(
        data_key="CIRCUIT_BREAKER_MAX_RESET_TIMEOUT_MS",
        load_default=60.0,
        validate=Range(1, 86_400_000),
        metadata={"description": "The longest that a circuit stays open before the next probe."},
    )
    simulator_latency = f.String(
        data_key="SIMULATOR_LATENCY",
        load_default="uniform:100-600",
        validate=_latency,
        metadata={
            "description": "Latency of the built-in upstream, in milliseconds: ``constant:50``, "
            "``uniform:100-600`` or ``lognormal:5,2`` (mean, deviation)."
        },
    )
    simulator_failure = _share(
        "SIMULATOR_FAILURE", 0.05, "Share of requests that the built-in upstream answers with a 500."
    )
    simulator_invalid = _share(
        "SIMULATOR_INVALID", 0.025, "Share of requests that it answers with an invalid body."
    )
    simulator_hang = _share("SIMULATOR_HANG", 0.025, "Share of requests that it never answers.")
    simulator_event_failure = _share(
        "SIMULATOR_EVENT_FAILURE",
        0.05,
        "Share of ``getUsers`` and ``getEvents`` that the built-in event service drops without an answer.",
    )
    simulator_event_delay = _Milliseconds(
        data_key="SIMULATOR_EVENT_DELAY_MS",
        load_default=0.5,
        validate=Range(0, 600_000),
        metadata={"description": "How long the built-in event service takes for one event."},
    )
    simulator_seed = f.Integer(
        data_key="SIMULATOR_SEED",
        load_default=None,
        metadata={"description": "Makes the built-in upstream's luck the same every time."},
    )
    downloads = _Switch(
        data_key="DOWNLOADS",
        load_default=True,
        metadata={"description": "The routes below ``/v1/download``, with their job store and storage."},
    )
    data_dir = f.String(
        data_key="DATA_DIR",
        load_default=".data",
        metadata={"description": "Folder of all that is embedded: job store, objects, secrets."},
    )
    redis_url = f.String(
        data_key="REDIS_URL",
        load_default=None,
        validate=_redis_url,
        metadata={
            "description": "The job store: a Redis or Valkey that keeps its append-only file. Unset: an "
            "embedded Valkey in ``DATA_DIR``."
        },
    )
    s3_endpoint = f.String(
        data_key="S3_ENDPOINT",
        load_default=None,
        validate=_url,
        metadata={
            "description": "URL of the S3 server; unset, with a bucket: Amazon's. Without both: objects "
            "are kept in ``DATA_DIR``."
        },
    )
    s3_public_endpoint = f.String(
        data_key="S3_PUBLIC_ENDPOINT",
        load_default=None,
        validate=_url,
        metadata={"description": "Its URL as clients reach it; links are signed for this one."},
    )
    s3_region = f.String(
        data_key="S3_REGION", load_default="us-east-1", metadata={"description": "Region of the bucket."}
    )
    s3_bucket_name = f.String(
        data_key="S3_BUCKET_NAME",
        load_default=None,
        validate=Length(3, 63),
        metadata={"description": "The bucket, made at the start if missing; ``downloads`` if unset."},
    )
    s3_access_key_id = f.String(
        data_key="S3_ACCESS_KEY_ID",
        load_default=None,
        metadata={"description": "Key for S3; unset: what the machine's role gives."},
    )
    s3_secret_access_key = f.String(
        data_key="S3_SECRET_ACCESS_KEY", load_default=None, metadata={"description": "And its secret."}
    )
    s3_force_path_style = _Truth(
        data_key="S3_FORCE_PATH_STYLE",
        load_default=True,
        metadata={"description": "The bucket is in the path (own servers), not in the host name (Amazon)."},
    )
    public_url = f.String(
        data_key="PUBLIC_URL",
        load_default="",
        validate=_url,
        metadata={
            "description": "Our own URL as clients reach it, for links to objects in ``DATA_DIR``; unset: "
            "links are paths."
        },
    )
    download_delay_enabled = _Truth(
        data_key="DOWNLOAD_DELAY_ENABLED",
        load_default=True,
        metadata={"description": "Whether the built-in source of files is slow."},
    )
    download_delay_min = _Milliseconds(
        data_key="DOWNLOAD_DELAY_MIN_MS",
        load_default=10.0,
        validate=Range(0, 600_000),
        metadata={"description": "The least that it takes for a file."},
    )
    download_delay_max = _Milliseconds(
        data_key="DOWNLOAD_DELAY_MAX_MS",
        load_default=120.0,
        validate=Range(0, 600_000),
        metadata={"description": "The most that it takes for a file."},
    )
    download_step_timeout = _Milliseconds(
        data_key="DOWNLOAD_STEP_TIMEOUT_MS",
        load_default=120.0,
        validate=Range(1, 3_600_000),
        metadata={"description": "How long the source may take for one step of a file, about a tenth of it."},
    )
    download_jobs = f.Integer(
        data_key="DOWNLOAD_JOBS",
        load_default=100,
        validate=Range(1, 10_000),
        metadata={"description": "Jobs that one process works on at a time."},
    )
    download_jobs_per_client = f.Integer(
        data_key="DOWNLOAD_JOBS_PER_CLIENT",
        load_default=20,
        validate=Range(1, 10_000),
        metadata={"description": "Jobs of one client that are worked on at a time, over all processes."},
    )
    download_open_jobs_per_client = f.Integer(
        data_key="DOWNLOAD_OPEN_JOBS_PER_CLIENT",
        load_default=1000,
        validate=Range(1, 1_000_000),
        metadata={"description": "Jobs that a client may have that have not ended; beyond it: 429."},
    )
    download_files = f.Integer(
        data_key="DOWNLOAD_FILES",
        load_default=8,
        validate=Range(1, 1000),
        metadata={"description": "Files of one job that are processed side by side."},
    )
    download_reuse = _Milliseconds(
        data_key="DOWNLOAD_REUSE_MS",
        load_default=0.0,
        validate=Range(0, 2_592_000_000),
        metadata={
            "description": "An object this young is handed out without processing its file again; 0: only "
            "one that was stored since the job began."
        },
    )
    download_link = _Milliseconds(
        data_key="DOWNLOAD_LINK_MS",
        load_default=900.0,
        validate=Range(1000, 604_800_000),
        metadata={"description": "How long a link to an object can be used."},
    )
    download_keep = _Milliseconds(
        data_key="DOWNLOAD_KEEP_MS",
        load_default=86_400.0,
        validate=Range(1000, 2_592_000_000),
        metadata={
            "description": "How long the links of a completed job can be had; then it is expired, and "
            "forgotten after seven days more."
        },
    )
    download_workers = _Switch(
        data_key="DOWNLOAD_WORKERS",
        load_default=True,
        metadata={"description": "Work on jobs in the server; off: only ``python -m server worker`` does."},
    )
    sse_streams = f.Integer(
        data_key="SSE_STREAMS",
        load_default=5000,
        validate=Range(1, 1_000_000),
        metadata={"description": "Event streams that one process serves at a time; beyond it: 503."},
    )
    sse_streams_per_client = f.Integer(
        data_key="SSE_STREAMS_PER_CLIENT",
        load_default=100,
        validate=Range(1, 1_000_000),
        metadata={"description": "Event streams of one client in one process; beyond it: 429."},
    )
    webhook_secrets = _Words(
        data_key="WEBHOOK_SECRETS",
        load_default=(),
        validate=_secret,
        metadata={
            "description": "What webhooks are signed with: one, or two while the new one (first) takes over. "
            "Unset: one is made and kept in ``DATA_DIR``."
        },
    )
    webhook_http = _Switch(
        data_key="WEBHOOK_HTTP",
        load_default=False,
        metadata={
            "description": "Let a ``callbackUrl`` be http:// too, at ports 80 and 8080; never a private one."
        },
    )
    trusted_proxies = _Networks(
        data_key="TRUSTED_PROXIES",
        load_default=(),
        metadata={
            "description": "Addresses and networks of proxies whose ``X-Forwarded-For`` is believed, "
            "separated by commas."
        },
    )
    rate_limit = _Switch(
        data_key="RATE_LIMIT",
        load_default=True,
        metadata={"description": "Limit how often a client may ask for ``/`` and ``/v1/*``."},
    )
    rate_limit_requests = f.Integer(
        data_key="RATE_LIMIT_MAX_REQUESTS",
        load_default=100,
        validate=Range(1, 1_000_000),
        metadata={"description": "Requests of one client within the window."},
    )
    rate_limit_window = _Milliseconds(
        data_key="RATE_LIMIT_WINDOW_MS",
        load_default=60.0,
        validate=Range(1000, 86_400_000),
        metadata={"description": "The window, in whole seconds."},
    )


NAMES_IN_ROUTES = {
    "WORK_API_URL": "URL of the ``work`` upstream. Unset: the built-in simulator answers.",
    "EVENT_API_BASE_URL": "Base URL of the event service. Unset: the built-in simulator answers.",
    "DOWNLOAD_SOURCE_URL": "Base URL of the file source. Unset: the built-in simulator answers.",
}
"""Variables that ``routes.toml`` names, with their meaning."""


SECRET = {
    SettingsSchema().fields[one.name].data_key
    for one in fields(Settings)
    if not one.repr and one.name != "environ"
}
"""Variables whose text is not repeated when it is wrong."""


def known_names() -> set[str]:
    """Every variable that has a meaning."""
    return {field.data_key for field in SettingsSchema().fields.values() if field.data_key} | set(
        NAMES_IN_ROUTES
    )


def load_settings(
    environ: Mapping[str, str], dotenv: Path | None = None, also: Set[str] = frozenset()
) -> Settings:
    """
    The settings from *environ*, and from the file *dotenv* for what it leaves out. Empty means unset.

    Raises:
        ConfigError: with every malformed value, and every name in *dotenv* that is none of ours nor one of
            *also* (those that the route table looks up).
    """
    from_file = {name: text or "" for name, text in dotenv_values(dotenv).items()} if dotenv else {}
    problems = [
        f"{name}: unknown, in {dotenv}{_suggest(name)}"
        for name in sorted(set(from_file) - known_names() - also)
    ]
    merged = {name: text for name, text in {**from_file, **environ}.items() if text != ""}
    values: dict[str, Any] = {}
    try:
        values = SettingsSchema().load(merged)
    except ValidationError as error:
        for name, messages in sorted(error.messages_dict.items()):
            said = "" if name in SECRET else f" It is {str(merged.get(name, ''))[:40]!r}."
            problems += [f"{name}: {' '.join(messages)}{said}"]
    if values and values["breaker_cap"] < values["breaker_open_time"]:
        problems.append("CIRCUIT_BREAKER_MAX_RESET_TIMEOUT_MS: Less than CIRCUIT_BREAKER_RESET_TIMEOUT_MS.")
    if values and values["download_delay_max"] < values["download_delay_min"]:
        problems.append("DOWNLOAD_DELAY_MAX_MS: Less than DOWNLOAD_DELAY_MIN_MS.")
    if problems:
        raise ConfigError(problems)
    return Settings(**values, environ=merged)


def _suggest(name: str) -> str:
    close = get_close_matches(name, known_names(), n=1)
    return f"; did you mean {close[0]}?" if close else ""


assert {field.name for field in fields(Settings)} - {"environ"} == set(SettingsSchema().fields)  # noqa: S101
