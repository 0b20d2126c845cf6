"""Settings are read once; every problem is reported at once, by the variable's name."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from server.settings import ConfigError, load_settings


def problem_of(given: dict[str, str]) -> str:
    """The one thing that `load_settings` complains about."""
    with pytest.raises(ConfigError) as caught:
        load_settings(given)
    [problem] = caught.value.problems
    return problem


def test_defaults() -> None:
    """Nothing has to be set."""
    settings = load_settings({})
    assert (settings.host, settings.port, settings.request_timeout) == ("127.0.0.1", 8000, 30.0)
    assert settings.cors_origins == ("*",)


def test_defaults_of_downloads() -> None:
    """As the contract of the download API has them; without any they are embedded, and slow."""
    settings = load_settings({})
    assert settings.downloads
    assert (settings.data_dir, settings.redis_url) == (".data", None)
    assert (settings.s3_endpoint, settings.s3_bucket_name, settings.s3_force_path_style) == (None, None, True)
    assert settings.download_delay_enabled
    assert (settings.download_delay_min, settings.download_delay_max) == (10.0, 120.0)
    assert settings.rate_limit
    assert (settings.rate_limit_requests, settings.rate_limit_window) == (100, 60.0)
    assert settings.trusted_proxies == ()


@pytest.mark.parametrize(
    ("name", "text", "attribute", "value"),
    [
        ("S3_REGION", "eu-central-1", "s3_region", "eu-central-1"),
        ("S3_ENDPOINT", "http://minio:9000", "s3_endpoint", "http://minio:9000"),
        ("S3_PUBLIC_ENDPOINT", "http://localhost:9000", "s3_public_endpoint", "http://localhost:9000"),
        ("S3_BUCKET_NAME", "files", "s3_bucket_name", "files"),
        ("S3_FORCE_PATH_STYLE", "false", "s3_force_path_style", False),
        ("DATA_DIR", "/var/lib/hedgerow", "data_dir", "/var/lib/hedgerow"),
        ("REDIS_URL", "redis://store:6379/0", "redis_url", "redis://store:6379/0"),
        ("DOWNLOAD_DELAY_ENABLED", "false", "download_delay_enabled", False),
        ("DOWNLOAD_DELAY_ENABLED", "true", "download_delay_enabled", True),
        ("DOWNLOAD_DELAY_MIN_MS", "1500", "download_delay_min", 1.5),
        ("DOWNLOAD_DELAY_MAX_MS", "20000", "download_delay_max", 20.0),
        ("RATE_LIMIT_MAX_REQUESTS", "7", "rate_limit_requests", 7),
        ("RATE_LIMIT_WINDOW_MS", "7000", "rate_limit_window", 7.0),
        ("TRUSTED_PROXIES", "10.0.0.0/8", "trusted_proxies", (ip_network("10.0.0.0/8"),)),
        ("WELCOME_MESSAGE", "Hello Hono!", "welcome_message", "Hello Hono!"),
        ("SENTRY_DSN", "https://key@example.com/1", "sentry_dsn", "https://key@example.com/1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318", "otel_endpoint", "http://otel:4318"),
        ("CORS_ORIGINS", "https://a.example", "cors_origins", ("https://a.example",)),
        ("PORT", "9000", "port", 9000),
        ("HOST", "0.0.0.0", "host", "0.0.0.0"),
        ("WORKERS", "4", "workers", 4),
        ("LOG_LEVEL", "debug", "log_level", "debug"),
        ("ACCESS_LOG", "off", "access_log", "off"),
    ],
)
def test_a_setting_has_the_name_that_operators_know(
    name: str, text: str, attribute: str, value: object
) -> None:
    """All those that the download service had before."""
    assert getattr(load_settings({name: text}), attribute) == value


def test_the_two_keys_of_s3_go_together() -> None:
    keys = {"S3_ACCESS_KEY_ID": "id", "S3_SECRET_ACCESS_KEY": "secret"}
    settings = load_settings(keys)
    assert (settings.s3_access_key_id, settings.s3_secret_access_key) == ("id", "secret")
    for name in keys:
        with pytest.raises(ConfigError, match="both, or none") as caught:
            load_settings({name: "hush"})
        assert "hush" not in str(caught.value)


def test_milliseconds_outside_are_seconds_inside() -> None:
    """The unit changes in one place."""
    assert load_settings({"REQUEST_TIMEOUT_MS": "1500"}).request_timeout == 1.5


def test_every_problem_is_reported_at_once() -> None:
    """Each by name, with what it must be and what it is."""
    given = {"PORT": "x", "REQUEST_TIMEOUT_MS": "0", "ACCESS_LOG": "some", "SIMULATOR_LATENCY": "fast"}
    with pytest.raises(ConfigError) as caught:
        load_settings(given)
    assert [line.partition(":")[0] for line in caught.value.problems] == sorted(given)
    assert "It is 'some'." in str(caught.value)
    assert "1 and less than or equal to 600000" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("REQUEST_TIMEOUT_MS", "1.5"),
        ("CORS_ORIGINS", " , "),
        ("SIMULATOR_HANG", "1.1"),
        ("SIMULATOR_HANG", "nan"),
        ("LOG_LEVEL", "loud"),
        ("UPSTREAM_CONNECTIONS", "0"),
        ("DOWNLOAD_DELAY_ENABLED", "maybe"),
        ("DOWNLOAD_DELAY_MIN_MS", "-1"),
        ("DOWNLOAD_DELAY_MIN_MS", "120001"),
        ("RATE_LIMIT_MAX_REQUESTS", "0"),
        ("RATE_LIMIT_WINDOW_MS", "999"),
        ("REDIS_URL", "http://store:6379"),
        ("S3_ENDPOINT", "minio:9000"),
        ("S3_BUCKET_NAME", "a"),
        ("S3_REGION", "us east"),
        ("S3_ENDPOINT", "http://minio_1:9000"),
        ("S3_ACCESS_KEY_ID", "id"),
        ("TRUSTED_PROXIES", "proxy.internal"),
        ("WEBHOOK_SECRETS", "secret"),
        ("TRUSTED_PROXIES", ","),
    ],
)
def test_out_of_range(name: str, text: str) -> None:
    """A value that cannot be meant stops the start."""
    with pytest.raises(ConfigError, match=name):
        load_settings({name: text})


@pytest.mark.parametrize("name", ["S3_ENDPOINT", "S3_PUBLIC_ENDPOINT", "PUBLIC_URL"])
@pytest.mark.parametrize(
    "text",
    ["http://h:abc", "http://h:99999", "http://h:0", "http://:80", "http://[::1", "http://h x", "http://h/x"],
)
def test_what_is_no_url_of_a_host_stops_the_start(name: str, text: str) -> None:
    """It would be found out by the first job only."""
    assert problem_of({name: text}) == (
        f"{name}: Must be http:// or https://, a host, and perhaps a port (1 to 65535). It is {text!r}."
    )


def test_a_password_in_a_url_is_not_repeated() -> None:
    """The message goes to a log."""
    assert "hush" not in problem_of({"S3_ENDPOINT": "http://me:hush@h"})


@pytest.mark.parametrize("text", ["A_B c/..", "ab", "a" * 64, "-ab", "ab.", "aBc", "a_c", "abc\n"])
def test_what_is_no_name_of_a_bucket_stops_the_start(text: str) -> None:
    """S3 would refuse it again and again."""
    assert problem_of({"S3_BUCKET_NAME": text}) == (
        "S3_BUCKET_NAME: Must be 3 to 63 lower-case letters, digits, '.' and '-', with a letter or digit at "
        f"both ends. It is {text[:40]!r}."
    )


@pytest.mark.parametrize(
    "text",
    [
        "redis://host:6379/x",
        "redis://host:6379/1/2",
        "redis://host/0x1",
        "redis://host//1",
        "redis://host:abc",
        "rediss://host:99999/0",
        "redis://host:0",
        "redis://[::1",
        "redis://:hush/hush@host:6379",
    ],
)
def test_a_job_store_without_a_right_port_and_number_stops_the_start(text: str) -> None:
    """The library takes database 0 for what it cannot read; the URL is a secret."""
    problem = problem_of({"REDIS_URL": text})
    assert problem.startswith("REDIS_URL: Must have a port from 1 to 65535 or none, and after it a slash and")
    assert "hush" not in problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("S3_ENDPOINT", "http://127.0.0.1:9000"),
        ("PUBLIC_URL", "https://[2001:db8::1]:8443/"),
        ("S3_BUCKET_NAME", "a.b"),
        ("S3_BUCKET_NAME", "0" + "-" * 61 + "9"),
        ("REDIS_URL", "redis://host"),
        ("REDIS_URL", "redis://:a%2Fb@host:6379/"),
        ("REDIS_URL", "rediss://[::1]:6379/15?socket_timeout=1"),
        ("REDIS_URL", "unix:///run/x:y/valkey.sock?db=1"),
        ("CORS_ORIGINS", "https://a.example, http://[::1]:8000, capacitor://localhost, null"),
    ],
)
def test_what_can_be_meant_is_taken(name: str, text: str) -> None:
    """The rules are those of whoever is asked, and no narrower."""
    load_settings({name: text})


@pytest.mark.parametrize(
    "text",
    [
        "foo",
        "a.example",
        "https://a.example/",
        "https://a.example,b",
        "https://*.a.example",
        "https://a:99999",
    ],
)
def test_an_origin_that_no_page_has_stops_the_start(text: str) -> None:
    """It would never be equal to an ``Origin``."""
    assert problem_of({"CORS_ORIGINS": text}) == (
        "CORS_ORIGINS: Must be *, or origins: scheme://host or scheme://host:port, without a path. "
        f"It is {text!r}."
    )


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    """And what is empty counts as unset."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=9000\nWELCOME_MESSAGE=from the file\nLOG_LEVEL=\n")
    settings = load_settings({"PORT": "9001"}, dotenv)
    assert (settings.port, settings.welcome_message, settings.log_level) == (9001, "from the file", "info")


def test_an_unknown_name_in_the_file(tmp_path: Path) -> None:
    """A slip of the pen in ``.env`` does not pass silently."""
    dotenv = tmp_path / ".env"
    dotenv.write_text("ACESS_LOG=off\n")
    with pytest.raises(ConfigError, match=r"ACESS_LOG: unknown, in .*; did you mean ACCESS_LOG\?"):
        load_settings({}, dotenv)


def test_unknown_names_in_the_environment_are_none_of_ours() -> None:
    """The environment is full of other programs' variables."""
    load_settings({"ACESS_LOG": "off", "HOME": "/home/me"})
