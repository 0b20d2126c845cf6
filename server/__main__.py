"""``python -m server``: read the settings, check them all, and serve until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
from pathlib import Path

import uvloop

from server import __version__
from server.app import ROUTES, create_app
from server.logs import logging_to_stderr
from server.routes import Table, breaker_options, load_table, variables_in
from server.serve import listen, run
from server.settings import ConfigError, Settings, load_settings
from server.workers import logging_without_thread, supervise

log = logging.getLogger("hedgerow.server")

EXIT_CONFIG = 2
EXIT_ADDRESS = 1


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line. What it leaves out comes from the environment, then from ``.env``."""
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Hedgerow answers on time over backends that do not.",
        epilog="Everything else is set by environment variables or a .env file; see .env.example.",
    )
    parser.add_argument("--host", help="address to listen on (HOST, 127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (PORT, 8000)")
    parser.add_argument("--workers", help="processes that serve, or auto: one for each core (WORKERS, 1)")
    parser.add_argument("--config", type=Path, default=ROUTES, help="the route table (server/routes.toml)")
    parser.add_argument("--version", action="version", version=f"Hedgerow {__version__}")
    return parser.parse_args(argv)


def configure(arguments: argparse.Namespace) -> tuple[Settings, Table]:
    """
    The settings and the route table.

    Raises:
        ConfigError: with every problem in either.
    """
    given = {"HOST": arguments.host, "PORT": arguments.port, "WORKERS": arguments.workers}
    environ = {**os.environ, **{name: text for name, text in given.items() if text is not None}}
    dotenv = Path(".env")
    try:
        text = arguments.config.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"--config: {error}"]) from error
    settings = load_settings(environ, dotenv if dotenv.exists() else None, also=variables_in(text))
    return settings, load_table(text, settings.environ, breaker_options(settings))


def main(argv: list[str] | None = None) -> int:
    """Run the server; returns the exit code."""
    try:
        settings, table = configure(parse(argv))
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)  # noqa: T201 - there is no log yet
        return EXIT_CONFIG
    try:
        sock = listen(settings.host, settings.port)
    except OSError as error:
        print(f"HOST, PORT: cannot listen on {settings.host}:{settings.port}: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_ADDRESS
    rest_memory()
    if settings.workers > 1:
        return serve_with_workers(settings, table, sock)
    with logging_to_stderr(settings.log_level), sock:
        say_what_is_simulated(table)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(create_app(settings, table), settings, sock))
    return 0


def serve_with_workers(settings: Settings, table: Table, sock: socket.socket) -> int:
    """The same, with processes that do the work; returns the exit code."""
    try:
        with sock, logging_without_thread(settings.log_level):
            say_what_is_simulated(table)
            supervise(settings, table, sock)
    except OSError as error:
        print(f"WORKERS: cannot start any: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_ADDRESS
    return 0


def say_what_is_simulated(table: Table) -> None:
    """One plain line for each upstream that has no URL, with the variable that changes it."""
    for entry in table.upstreams:
        if entry.url is None:
            log.warning(
                "upstream %s is played by the built-in simulator; set %s to use a real one",
                entry.name,
                entry.variable,
            )


def rest_memory() -> None:
    """
    Tell the garbage collector that what is loaded now stays, and to look for cycles less often.

    A full collection over the modules stops the loop for 28 to 62 ms, which is then every answer's delay;
    after this the worst was 2 to 4 ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


if __name__ == "__main__":
    sys.exit(main())
