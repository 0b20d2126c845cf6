"""What callers hand back: read as it was written, and anything else refused."""

from __future__ import annotations

import uuid
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.downloads.cursors import Place, event_id, job_id, read_cursor, write_cursor

NUMBERS = st.integers(0, 2**64 - 1)


@given(NUMBERS, NUMBERS)
def test_the_id_of_an_event_is_read_without_leading_zeros(milliseconds: int, sequence: int) -> None:
    assert event_id(f"{milliseconds}-{sequence}") == f"{milliseconds}-{sequence}"
    assert event_id(f"{milliseconds:020}-{sequence:020}") == f"{milliseconds}-{sequence}"


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "1", "1-", "-1", "1-1-1", " 1-1", "1-1\n", "+1-1", "1_0-1", "٣-1", "$", "*", "(1-1"),
        *(f"{2**64}-0", f"0-{2**64}", "1" * 21 + "-0", "1" * 100_000),
    ],
)
def test_what_is_no_id_of_an_event_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not the id of an event"):
        event_id(text)


@given(st.uuids())
def test_the_id_of_a_job_is_a_uuid_in_lower_case(one: uuid.UUID) -> None:
    assert job_id(str(one)) == str(one)
    for text in (str(one).upper() + " ", one.hex, f"{{{one}}}", one.urn, f"{one}\n"):
        with pytest.raises(ValueError, match="not the id of a job"):
            job_id(text)


@given(st.floats(0, 10**11).map(lambda seconds: f"{seconds:.6f}"), st.uuids())
def test_a_cursor_is_read_as_it_was_written(score: str, one: uuid.UUID) -> None:
    place = Place(score, str(one))
    assert read_cursor(write_cursor(place)) == place


@given(st.text() | st.text("AZaz09-_=").map(lambda text: f"MTcwMDAwMDAwMC4y{text}"))
def test_nothing_else_is_a_cursor(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        read_cursor(text)


@given(st.integers(0, 75), st.characters(max_codepoint=127))
def test_a_cursor_that_was_changed_is_refused_or_is_another_place(at: int, letter: str) -> None:
    cursor = write_cursor(Place("1700000000.25", "00000000-0000-4000-8000-000000000000"))
    changed = cursor[:at] + letter + cursor[at + 1 :]
    with suppress(ValueError):
        assert write_cursor(read_cursor(changed)) == changed
