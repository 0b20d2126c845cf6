"""What the operator may set: read once, from the environment and ``.env``, into one frozen value.

Every problem is reported at once, by the variable's name. Nothing else in the program reads the environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dotenv import dotenv_values
from marshmallow import EXCLUDE, ValidationError
from marshmallow.validate import Length, OneOf, Range

from server.clients import Network
from server.downloads.settings import DownloadSettingsSchema
from server.setting_kinds import (
    Workers,
    collector_url,
    it_is,
    latency,
    milliseconds,
    origins,
    share,
    switch,
    text,
    whole,
    words,
)


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
    otel_endpoint: str | None
    otel_service: str
    otel_share: float
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


class SettingsSchema(DownloadSettingsSchema):
    """Names, kinds, ranges, defaults and meanings. The reference page is written from this class."""

    class Meta:
        unknown = EXCLUDE  # the environment is full of what is not ours

    host = text("HOST", "127.0.0.1", "Address to listen on.")
    port = whole("PORT", 8000, (0, 65535), "Port to listen on; 0 picks a free one.")
    workers = Workers(
        data_key="WORKERS",
        load_default=1,
        validate=Range(1, 256),
        metadata={"description": "Processes that serve on the one port; ``auto``: one for each core."},
    )
    request_timeout = milliseconds(
        "REQUEST_TIMEOUT_MS",
        30.0,
        (1, 600_000),
        "The longest ``timeout`` a caller may ask for, and the one without asking.",
    )
    header_timeout = milliseconds(
        "HEADER_TIMEOUT_MS",
        5.0,
        (1, 600_000),
        "How long a new connection may be silent, and how long the headers of a request "
        "may take from their first byte.",
    )
    body_timeout = milliseconds(
        "BODY_TIMEOUT_MS",
        10.0,
        (1, 600_000),
        "How long the body of a request may take from the end of its headers.",
    )
    access_log = text(
        "ACCESS_LOG",
        "all",
        "One log line per request: for all, for those that failed, or none.",
        validate=OneOf(["all", "errors", "off"]),
    )
    log_level = text(
        "LOG_LEVEL",
        "info",
        "The least severe level that is logged.",
        validate=OneOf(["debug", "info", "warning", "error"]),
    )
    sentry_dsn = text(
        "SENTRY_DSN", None, "Where errors are reported (a DSN of Sentry). Unset: only in the log."
    )
    otel_endpoint = text(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        None,
        "Base URL of a collector of OpenTelemetry that takes OTLP over HTTP, often at "
        "port 4318; ``/v1/traces`` is added. Unset: no traces.",
        validate=collector_url,
    )
    otel_service = text(
        "OTEL_SERVICE_NAME", "hedgerow", "What the server is called in traces.", validate=Length(1, 255)
    )
    otel_share = share(
        "OTEL_TRACES_SAMPLER_ARG",
        1.0,
        "Share of traces that are collected, of those that begin here; a caller's own go by its decision.",
    )
    cors_origins = words(
        "CORS_ORIGINS",
        ("*",),
        "Origins whose pages may call us, as ``https://app.example``, separated by commas; ``*`` for all.",
        validate=origins,
    )
    welcome_message = text(
        "WELCOME_MESSAGE", "Hello Hedgerow!", "What ``GET /`` says.", validate=Length(1, 1000)
    )
    drain_delay = milliseconds(
        "DRAIN_DELAY_MS",
        1.0,
        (0, 300_000),
        "After SIGTERM, how long requests are still taken (and connections closed after "
        "each answer) so that callers and load balancers can move away. 5000 suits most balancers.",
    )
    shutdown_timeout = milliseconds(
        "SHUTDOWN_TIMEOUT_MS",
        30.0,
        (0, 600_000),
        "How long requests in flight may take to finish after that.",
    )
    upstream_connections = whole(
        "UPSTREAM_CONNECTIONS", 10_000, (1, 1_000_000), "Connections to upstreams, at most, over all of them."
    )
    upstream_connections_per_host = whole(
        "UPSTREAM_CONNECTIONS_PER_HOST",
        0,
        (0, 1_000_000),
        "Connections to one host and port, at most; 0 for no such limit.",
    )
    dns_cache = milliseconds(
        "DNS_CACHE_MS", 30.0, (1000, 86_400_000), "How long a looked-up address is believed."
    )
    reaper_limit = whole(
        "REAPER_LIMIT",
        10_000,
        (1, 1_000_000),
        "Lost attempts still winding down beyond which no hedges are started.",
    )
    fast_lane = switch(
        "FAST_LANE", True, "The short way to an upstream for plain GETs; off: all through the session."
    )
    event_fetch_concurrency = whole(
        "EVENT_FETCH_CONCURRENCY", 100, (1, 10_000), "Events of one user that are fetched at once, at most."
    )
    load_shedding = switch(
        "LOAD_SHEDDING", True, "Refuse (503) what could not be answered in time; off: take it all."
    )
    breaker_failures = whole(
        "CIRCUIT_BREAKER_FAILURE_THRESHOLD",
        3,
        (1, 16),
        "A circuit opens at this many failures within the window.",
    )
    breaker_window = milliseconds(
        "CIRCUIT_BREAKER_FAILURE_WINDOW_MS",
        30.0,
        (1, 86_400_000),
        "How long a failure is remembered while the circuit is closed.",
    )
    breaker_open_time = milliseconds(
        "CIRCUIT_BREAKER_RESET_TIMEOUT_MS",
        10.0,
        (1, 86_400_000),
        "How long a circuit stays open the first time; doubled at each failed probe.",
    )
    breaker_cap = milliseconds(
        "CIRCUIT_BREAKER_MAX_RESET_TIMEOUT_MS",
        60.0,
        (1, 86_400_000),
        "The longest that a circuit stays open before the next probe.",
    )
    simulator_latency = text(
        "SIMULATOR_LATENCY",
        "uniform:100-600",
        "Latency of the built-in upstream, in milliseconds: ``constant:50``, "
        "``uniform:100-600`` or ``lognormal:5,2`` (mean, deviation).",
        validate=latency,
    )
    simulator_failure = share(
        "SIMULATOR_FAILURE", 0.05, "Share of requests that the built-in upstream answers with a 500."
    )
    simulator_invalid = share(
        "SIMULATOR_INVALID", 0.025, "Share of requests that it answers with an invalid body."
    )
    simulator_hang = share("SIMULATOR_HANG", 0.025, "Share of requests that it never answers.")
    simulator_event_failure = share(
        "SIMULATOR_EVENT_FAILURE",
        0.05,
        "Share of ``getUsers`` and ``getEvents`` that the built-in event service drops without an answer.",
    )
    simulator_event_delay = milliseconds(
        "SIMULATOR_EVENT_DELAY_MS",
        0.5,
        (0, 600_000),
        "How long the built-in event service takes for one event.",
    )
    simulator_seed = whole(
        "SIMULATOR_SEED", None, None, "Makes the built-in upstream's luck the same every time."
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
            said = "" if name in SECRET else it_is(merged.get(name, ""))
            problems += [f"{name}: {' '.join(messages)}{said}"]
    if values and values["breaker_cap"] < values["breaker_open_time"]:
        problems.append("CIRCUIT_BREAKER_MAX_RESET_TIMEOUT_MS: Less than CIRCUIT_BREAKER_RESET_TIMEOUT_MS.")
    if values and values["download_delay_max"] < values["download_delay_min"]:
        problems.append("DOWNLOAD_DELAY_MAX_MS: Less than DOWNLOAD_DELAY_MIN_MS.")
    if values and (values["s3_access_key_id"] is None) != (values["s3_secret_access_key"] is None):
        problems.append("S3_ACCESS_KEY_ID: It goes with S3_SECRET_ACCESS_KEY: both, or none.")
    if problems:
        raise ConfigError(problems)
    return Settings(**values, environ=merged)


def _suggest(name: str) -> str:
    close = get_close_matches(name, known_names(), n=1)
    return f"; did you mean {close[0]}?" if close else ""


assert {field.name for field in fields(Settings)} - {"environ"} == set(SettingsSchema().fields)  # noqa: S101
