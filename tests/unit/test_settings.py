"""Settings are read once; every problem is reported at once, by the variable's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.settings import ConfigError, load_settings


def test_defaults() -> None:
    """Nothing has to be set."""
    settings = load_settings({})
    assert (settings.host, settings.port, settings.request_timeout) == ("127.0.0.1", 8000, 30.0)
    assert settings.cors_origins == ("*",)


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
    ],
)
def test_out_of_range(name: str, text: str) -> None:
    """A value that cannot be meant stops the start."""
    with pytest.raises(ConfigError, match=name):
        load_settings({name: text})


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
