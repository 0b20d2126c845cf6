"""The fault list is kept: every row is shown by a test, or says why it is not."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults import downloads_rows, inbound_rows, upstream_rows
from tests.faults.catalogue import GROUPS, Misplaced, Shown, shown, shown_in

PARTS = (inbound_rows.ROWS, upstream_rows.ROWS, downloads_rows.ROWS)
ROWS = {number: text for part in PARTS for number, text in part.items()}
OUT = {**upstream_rows.OUT, **downloads_rows.OUT}


def test_the_rows_are_1_to_107_and_each_stands_once() -> None:
    """In one of the lists, and in one group."""
    assert Counter(row for part in PARTS for row in part) == Counter(range(1, 108))
    assert Counter(row for group in GROUPS.values() for row in group) == Counter(range(1, 108))


def test_every_row_is_a_sentence() -> None:
    """So is every reason."""
    for text in (*ROWS.values(), *OUT.values()):
        assert text.endswith(".")
        assert len(text) > 20


def test_every_row_is_shown_or_says_why_not() -> None:
    """Never both, and no reason for what is no row."""
    marked = {one.row for one in shown()}
    assert sorted(ROWS.keys() - marked - OUT.keys()) == []
    assert sorted(marked & OUT.keys()) == []
    assert sorted(OUT.keys() - ROWS.keys()) == []


def test_no_marker_names_an_unknown_row() -> None:
    """A typo would show nothing."""
    assert [one for one in shown() if one.row not in ROWS] == []


def test_a_marker_is_found_at_a_test_and_at_one_of_its_parameters() -> None:
    """With all of its rows."""
    text = """
@pytest.mark.fault(1, 2)
async def test_a(): ...
class TestB:
    @pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.fault(3))])
    def test_b(self, x): ...
"""
    assert shown_in(text, "f") == [Shown(1, "f", "test_a"), Shown(2, "f", "test_a"), Shown(3, "f", "test_b")]


@pytest.mark.parametrize(
    "text",
    [
        "@pytest.mark.fault(1)\ndef helper(): ...",
        "pytestmark = pytest.mark.fault(1)",
        "@pytest.mark.fault()\ndef test_a(): ...",
        "@pytest.mark.fault(row=1)\ndef test_a(): ...",
        "@pytest.mark.fault(*ROWS)\ndef test_a(): ...",
        "@pytest.mark.fault(True)\ndef test_a(): ...",
        "def test_a():\n    pytest.mark.fault(1)",
    ],
)
def test_a_marker_that_counts_for_nothing_is_an_error(text: str) -> None:
    """Not at a test, or without plain numbers."""
    with pytest.raises(Misplaced, match="f:"):
        shown_in(text, "f")
