"""Which room may know which: the arrows between the packages, read off their imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("strategies", "upstream", "server")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
WEB = ("aiohttp.web", "aiohttp.typedefs")
"""The half of aiohttp that serves."""
BOTH = (
    "aiohttp.abc",
    "aiohttp.http_exceptions",
    "aiohttp.HttpVersion",
    "aiohttp.EMPTY_PAYLOAD",
    "aiohttp.StreamReader",
)
"""What both halves are made of."""


def names(paths: list[Path]) -> list[str]:
    """Paths as pytest shows them."""
    return [str(path.relative_to(ROOT)) for path in paths]


def tree_of(path: Path) -> ast.Module:
    """The file, parsed."""
    return ast.parse(path.read_text("utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that *path* imports, wherever; ``from aiohttp import web`` counts as ``aiohttp.web``."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides its arrow"
            if node.module == "aiohttp":
                yield from (f"aiohttp.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def room_of(module: str) -> str:
    """The package that a module is in."""
    return module.partition(".")[0]


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_only_the_server_knows_the_server(path: Path) -> None:
    """Nothing below ``server`` looks up to it."""
    if path.relative_to(ROOT).parts[0] != "server":
        assert "server" not in map(room_of, imports(path))


STRATEGIES = [path for path in FILES if path.relative_to(ROOT).parts[0] == "strategies"]


@pytest.mark.parametrize("path", STRATEGIES, ids=names(STRATEGIES))
def test_strategies_know_the_standard_library_and_themselves(path: Path) -> None:
    """A policy runs without aiohttp, and without any other package."""
    assert set(map(room_of, imports(path))) <= {"strategies", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", FILES, ids=names(FILES))
def test_only_upstream_knows_the_client_of_aiohttp(path: Path) -> None:
    """Elsewhere aiohttp is its server half, and in ``server.lifespan`` the name of the session's type."""
    if path.relative_to(ROOT).parts[0] == "upstream":
        return
    known = {module for module in imports(path) if room_of(module) == "aiohttp"}
    if path == ROOT / "server" / "lifespan.py":
        known.discard("aiohttp")
        nodes = list(ast.walk(tree_of(path)))
        used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        called = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
        assert {name for name in used if room_of(name) == "aiohttp"} <= {"aiohttp.ClientSession"}
        assert "aiohttp.ClientSession" not in called, "only upstream.session opens one"
    assert {module for module in known if not module.startswith((*WEB, *BOTH))} == set()


UPSTREAM = [path for path in FILES if path.relative_to(ROOT).parts[0] == "upstream"]


@pytest.mark.parametrize("path", UPSTREAM, ids=names(UPSTREAM))
def test_in_upstream_only_the_simulator_serves(path: Path) -> None:
    """The client's room has no server in it; the simulator is an application of its own, and no client."""
    known = {module for module in imports(path) if room_of(module) == "aiohttp"}
    serving = {module for module in known if module.startswith(WEB)}
    assert (known - serving if "simulator" in path.parts else serving) == set()
