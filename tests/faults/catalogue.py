"""Which test shows which row of the fault list, read from the ``fault`` markers in the files of the tests.

It reads text, not objects: the documentation is built from it as well, where no test can be imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

TESTS = Path(__file__).parents[1]
GROUPS = {
    "A": range(1, 21),
    "B": range(21, 31),
    "C": range(31, 37),
    "D": range(37, 47),
    "E": range(47, 65),
    "F": range(65, 73),
    "G": range(73, 80),
    "H": range(80, 89),
    "I": range(89, 101),
    "J": range(101, 108),
}
"""The rows of each group."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class Shown(NamedTuple):
    """*row* is shown by *test* in *file* (below the folder of the tests)."""

    row: int
    file: str
    test: str


class Misplaced(ValueError):
    """A marker that is not at a test, or whose rows are not plain numbers."""


def shown(root: Path = TESTS) -> list[Shown]:
    """
    All markers of the test files below *root*, by row.

    Raises:
        Misplaced: with file and line.
    """
    return sorted(
        one
        for path in root.rglob("test_*.py")
        for one in shown_in(path.read_text("utf-8"), path.relative_to(root).as_posix())
    )


def shown_in(text: str, file: str) -> list[Shown]:
    """The markers in the *text* of one file; see `shown`."""
    tree = ast.parse(text, file)
    at_tests = {
        marker: test.name
        for test in ast.walk(tree)
        if isinstance(test, Function) and test.name.startswith("test_")
        for decorator in test.decorator_list
        for marker in _markers(decorator)
    }
    found = []
    for marker in _markers(tree):
        if marker not in at_tests or not marker.args or marker.keywords:
            raise Misplaced(f"{file}:{marker.lineno}: a fault marker stands at a test and names its rows")
        for row in marker.args:
            if not isinstance(row, ast.Constant) or type(row.value) is not int:
                raise Misplaced(f"{file}:{marker.lineno}: rows are plain numbers")
            found.append(Shown(row.value, file, at_tests[marker]))
    return found


def _markers(node: ast.AST) -> Iterator[ast.Call]:
    """The calls of ``pytest.mark.fault`` in *node*."""
    for one in ast.walk(node):
        if isinstance(one, ast.Call) and ast.unparse(one.func) == "pytest.mark.fault":
            yield one
