"""The ``timeout`` of a query string."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import Problem
from server.params import timeout_reader

read = timeout_reader(30.0)


@given(st.integers(1, 30_000))
@pytest.mark.fault(25)
def test_every_whole_number_in_range_is_taken(milliseconds: int) -> None:
    """As seconds, exactly."""
    assert read(f"timeout={milliseconds}") == milliseconds / 1000


@given(st.one_of(st.integers(max_value=0), st.integers(min_value=30_001)))
@pytest.mark.fault(23)
def test_every_whole_number_out_of_range_is_refused(milliseconds: int) -> None:
    """With a 400."""
    with pytest.raises(Problem) as caught:
        read(f"timeout={milliseconds}")
    assert (caught.value.status, caught.value.code) == (400, "validation")


@given(st.text())
@pytest.mark.fault(22, 28)
def test_any_text_is_taken_or_refused_and_never_a_bug(text: str) -> None:
    """Only ASCII digits within the range are taken."""
    raw = f"timeout={quote(text, safe='', errors='replace')}"
    plain = text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= 30_000
    if plain:
        assert read(raw) == int(text) / 1000
    else:
        with pytest.raises(Problem) as caught:
            read(raw)
        assert caught.value.status == 400


@given(st.text(alphabet=st.characters(codec="ascii", exclude_characters="#")))
@pytest.mark.fault(28, 29)
def test_any_query_string_is_read_or_refused(raw: str) -> None:
    """No query string is a bug."""
    try:
        seconds = read(raw)
    except Problem:
        return
    assert 0 < seconds <= 30


@pytest.mark.fault(21)
def test_without_a_timeout_it_is_the_longest() -> None:
    """Absent, and absent among others."""
    assert read("") == read("a=1&b=2") == 30.0
