"""Rules for payloads: found by name, and exact."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upstream import payloads
from upstream.payloads import find_accept


class TestByName:
    @pytest.mark.parametrize(
        ("name", "rule"),
        [("any", payloads.anything), ("json", payloads.json_document), ("work", payloads.work)],
    )
    def test_built_in(self, name: str, rule: payloads.Accept) -> None:
        """The names that settings use."""
        assert find_accept(name) is rule

    def test_a_function_by_its_path(self) -> None:
        """Any importable rule can be named."""
        assert find_accept("upstream.payloads:work") is payloads.work

    def test_a_slip_of_the_pen_gets_a_suggestion(self) -> None:
        """The nearest name is offered."""
        with pytest.raises(LookupError, match="payload rule 'wrok' is unknown; did you mean 'work'"):
            find_accept("wrok")

    def test_an_unknown_name_lists_the_known_ones(self) -> None:
        """With nothing near, the message says what there is."""
        with pytest.raises(LookupError, match="there is any, json"):
            find_accept("zzzzzz")

    @pytest.mark.parametrize("path", ["no.such.module:rule", "upstream.payloads:nothing"])
    def test_a_path_that_leads_nowhere(self, path: str) -> None:
        """The reason is in the message."""
        with pytest.raises(LookupError, match="cannot be loaded"):
            find_accept(path)


class TestAny:
    @given(st.binary(max_size=50))
    def test_every_body_will_do(self, body: bytes) -> None:
        """Nothing is refused."""
        assert payloads.anything(body) is None


NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
WORKS = DOCUMENTS | st.builds(lambda time: {"time": time, "more": [time]}, DOCUMENTS)


def encode(document: object) -> bytes:
    """*document* as JSON in UTF-8, by another library than the one that judges; lone surrogates escaped."""
    return json.dumps(document).encode()


class TestWork:
    @given(WORKS)
    @example({"time": True})
    @example({"time": 0})
    @example({"time": -1.5e-300})
    @example({"time": [1]})
    @example([{"time": 1}])
    def test_exactly_objects_with_a_number_under_time(self, document: object) -> None:
        """Of all JSON documents only an object whose ``time`` is a number, and no boolean, is accepted."""
        numeric = isinstance(document, dict) and type(document.get("time")) in (int, float)
        assert (payloads.work(encode(document)) is None) is numeric

    @given(st.binary(max_size=30))
    @example(b'{"time": 1')
    @example(b'{"time": 1}x')
    @example(b'{"time": NaN}')
    @example(b'{"time": -Infinity}')
    @example(b'{"time": 1e999}')
    @example(b'\xef\xbb\xbf{"time": 1}')
    @example(b'{"time": 1, "a": "\xff"}')
    @example('{"time": 1}'.encode("utf-16"))
    @example(b"[" * 100_000)
    def test_any_bytes_are_judged_and_never_raise(self, body: bytes) -> None:
        """Bytes that the standard library would not take as a finite JSON number are refused, in words."""
        complaint = payloads.work(body)
        assert complaint is None or complaint.startswith("the body ")
        if complaint is None:
            assert math.isfinite(json.loads(body)["time"])

    @given(DOCUMENTS)
    def test_any_document_is_a_json_document(self, document: object) -> None:
        """The rule ``json`` takes every document, and none that is cut short."""
        body = encode(document)
        assert payloads.json_document(body) is None
        assert payloads.json_document(body + b",") == "the body is not JSON"
