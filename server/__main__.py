"""``python -m server``: read the settings, check them all, and do what the command says, or serve."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from server import __version__
from server.app import ROUTES, create_app
from server.downloads.engine import load_queue
from server.error_reports import check_dsn, error_reports
from server.job_store.opening import JobStoreError
from server.jobs_cli import EXIT_STORE, add_commands, run_command
from server.logs import logging_to_stderr
from server.routes import Table, breaker_options, load_table, variables_in
from server.serve import listen, run
from server.settings import ConfigError, Settings, load_settings
from server.worker import create_worker, only_files, run_worker
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
    _add_serving(parser, default=None, config=ROUTES)
    parser.add_argument("--version", action="version", version=f"Hedgerow {__version__}")
    # What stands before the command is known by the same names, so commands have no defaults of their own.
    unset: Any = argparse.SUPPRESS
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    parser.set_defaults(command="serve")
    serve = commands.add_parser("serve", help="serve; also what happens without a command")
    _add_serving(serve, default=unset, config=unset)
    worker = commands.add_parser("worker", help="work on downloads, and serve nothing but its health")
    _add_config(worker, unset)
    worker.add_argument("--host", default=unset, help="address of --port (HOST, 127.0.0.1)")
    worker.add_argument(
        "--port",
        type=_port,
        dest="worker_port",
        metavar="PORT",
        help="port of /health, /ready and /metrics; without it there are none, whatever PORT says",
    )
    jobs = commands.add_parser("jobs", help="look after the jobs of downloads")
    _add_config(jobs, unset)
    add_commands(jobs)
    return parser.parse_args(argv)


def _add_serving(parser: argparse.ArgumentParser, default: Any, config: Any) -> None:
    parser.add_argument("--host", default=default, help="address to listen on (HOST, 127.0.0.1)")
    parser.add_argument("--port", default=default, help="port to listen on (PORT, 8000)")
    parser.add_argument(
        "--workers", default=default, help="processes that serve, or auto: one for each core (WORKERS, 1)"
    )
    _add_config(parser, config)


def _add_config(parser: argparse.ArgumentParser, default: Any) -> None:
    parser.add_argument("--config", type=Path, default=default, help="the route table (server/routes.toml)")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"must be 0 to 65535, and is {text!r}")
    return int(text)


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
    check_dsn(settings.sentry_dsn)
    return settings, load_table(text, settings.environ, breaker_options(settings))


def main(argv: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit code."""
    arguments = parse(argv)
    try:
        settings, table = configure(arguments)
        if arguments.command == "jobs":
            return run_command(arguments, settings)
        if arguments.command == "worker":
            return work(settings, table, arguments.worker_port)
        return serve(settings, table)
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)  # noqa: T201 - there is no log yet
        return EXIT_CONFIG
    except JobStoreError as error:
        print(f"DATA_DIR, REDIS_URL: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_STORE


def serve(settings: Settings, table: Table) -> int:
    """Run the server; returns the exit code."""
    try:
        sock = listen(settings.host, settings.port)
    except OSError as error:
        return _cannot_listen("HOST, PORT", settings.host, settings.port, error)
    if settings.downloads:
        load_queue()  # once, whatever the number of workers
    if settings.otel_endpoint is not None:
        import server.tracing  # noqa: F401 - likewise
    rest_memory()
    if settings.workers > 1:
        return serve_with_workers(settings, table, sock)
    with logging_to_stderr(settings.log_level), sock:
        say_what_is_simulated(table)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(create_app(settings, table), settings, sock))
    return 0


def work(settings: Settings, table: Table, port: int | None) -> int:
    """
    Run a worker, its health at *port* if there is one; returns the exit code.

    Raises:
        ConfigError: there is nothing to work on.
    """
    table = only_files(settings, table)
    with ExitStack() as stack:
        sock = None
        if port is not None:
            try:
                sock = stack.enter_context(listen(settings.host, port))
            except OSError as error:
                return _cannot_listen("--host, --port", settings.host, port, error)
        rest_memory()
        stack.enter_context(logging_to_stderr(settings.log_level))
        say_what_is_simulated(table)
        stack.enter_context(error_reports(settings.sentry_dsn))
        runner = stack.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        runner.run(run_worker(create_worker(settings, table), sock))
    return 0


def _cannot_listen(names: str, host: str, port: int, error: OSError) -> int:
    print(f"{names}: cannot listen on {host}:{port}: {error}", file=sys.stderr)  # noqa: T201
    return EXIT_ADDRESS


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
