"""The command line: which words mean what, and what stops a command before it begins."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import server.__main__
from server.__main__ import configure, main, parse


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without .env, and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOST", "PORT", "WORKERS", "DOWNLOADS", "REDIS_URL", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "line",
    ["--port 81 --workers 2", "serve --port 81 --workers 2", "--port 81 serve --workers 2"],
)
def test_serve_is_what_happens_without_a_command(line: str) -> None:
    """Options may stand on either side of it."""
    arguments = parse(line.split())
    settings, _ = configure(arguments)
    assert (arguments.command, settings.port, settings.workers) == ("serve", 81, 2)


def test_the_port_of_a_worker_is_not_that_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may read one .env on one machine."""
    monkeypatch.setenv("PORT", "82")
    assert parse(["worker"]).worker_port is None
    arguments = parse(["worker", "--port", "83"])
    assert (arguments.worker_port, configure(arguments)[0].port) == (83, 82)


@pytest.mark.parametrize(
    "line",
    [
        "wroker",
        "worker --port 65536",
        "worker --port -1",
        "worker --port x",
        "worker --workers 2",
        "jobs",
        "jobs list --limit 0",
        "jobs list --limit x",
        "jobs list --state ended",
        "jobs show",
        "jobs cancel 1 2",
    ],
)
def test_a_line_that_means_nothing_ends_with_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And the usage of the command."""
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m server")


@pytest.mark.parametrize("command", ["serve", "worker", "jobs list"])
def test_bad_settings_stop_every_command(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their names."""
    monkeypatch.setenv("REDIS_URL", "somewhere")
    assert main(command.split()) == 2
    assert capsys.readouterr().err.startswith("REDIS_URL: ")


def test_a_worker_without_work_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both reasons at once."""
    monkeypatch.setenv("DOWNLOADS", "off")
    table = tmp_path / "routes.toml"
    table.write_text(
        '[upstream.work]\nurl = "http://a.example"\n'
        '[[route]]\nname = "a"\npath = "/a"\nstrategy = "first"\nupstream = "work"\n'
    )
    assert main(["worker", "--config", str(table)]) == 2
    problems = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in problems] == ["DOWNLOADS", "--config"]


def test_a_worker_whose_port_is_taken_ends_with_1(taken: int, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the options."""
    assert main(["worker", "--port", str(taken)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"--host, --port: cannot listen on 127.0.0.1:{taken}: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("command", ["serve --port 0", "worker"])
@pytest.mark.fault(86)
def test_a_data_folder_that_cannot_be_one_ends_with_3(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the settings."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(server.__main__, "rest_memory", lambda: None)  # it is for a process of its own
    assert main(command.split()) == 3
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("DATA_DIR, REDIS_URL: The folder of the embedded job store cannot be used: ")
