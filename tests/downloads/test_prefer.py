"""What clients may write into ``Prefer``, and what is made of it."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.downloads.prefer import LONGEST, Prefer, applied, prefer

NOTHING = Prefer()
ASYNC = Prefer(respond_async=True)


@pytest.mark.parametrize(
    ("fields", "meant"),
    [
        ([], NOTHING),
        ([""], NOTHING),
        (["respond-async"], ASYNC),
        (["Respond-ASYNC"], ASYNC),
        (["respond-async; anything=1; more"], ASYNC),
        (["respond-async;"], ASYNC),
        (['respond-async=""'], ASYNC),  # RFC 7240: the same as none
        (["wait=10"], Prefer(wait=10.0)),
        (["wait = 10"], Prefer(wait=10.0)),
        (['wait="10"'], Prefer(wait=10.0)),
        (['wait="1\\0"'], Prefer(wait=10.0)),
        (["wait=0"], Prefer(wait=0.0)),
        (["respond-async, wait=10"], Prefer(True, 10.0)),
        (["respond-async,wait=10"], Prefer(True, 10.0)),
        (["\t respond-async \t,\t wait=10 ; x \t"], Prefer(True, 10.0)),
        ([",, respond-async,, ,"], ASYNC),
        (["respond-async", "wait=10"], Prefer(True, 10.0)),
        (["wait=10", "wait=20"], Prefer(wait=10.0)),
        (["wait=10, WAIT=20"], Prefer(wait=10.0)),
        (['handling=lenient, foo="a, respond-async", wait=3'], Prefer(wait=3.0)),
        (['foo="\\", wait=9", wait=3'], Prefer(wait=3.0)),
        (['foo; bar="wait=9, respond-async", respond-async'], ASYNC),
        (["return=minimal"], NOTHING),
        (["respond-async-not, x-wait=3"], NOTHING),
        ([f"wait={'9' * 5000}"], Prefer(wait=float(LONGEST))),
        ([f"wait={'0' * 5000}7"], Prefer(wait=7.0)),
    ],
)
def test_a_preference_is_understood(fields: list[str], meant: Prefer) -> None:
    assert prefer(fields) == meant


@pytest.mark.parametrize(
    "field",
    [
        *("wait", "wait=", "wait=x", "wait=-1", "wait=+1", "wait=1.5", "wait=1e3", "wait=²", "wait=\u0661"),
        *(
            "wait==1",
            "wait=1 2",
            "wait 1",
            "=1",
            ";wait=1",
            "wait=x, wait=1",
            'wait="1',
            'wait=1"',
            "wa(it=1",
        ),
        *("respond-async=no", "respond async", '"respond-async"', "respond-async wait=1"),
    ],
)
def test_what_is_malformed_is_passed_over(field: str) -> None:
    assert prefer([field]) == NOTHING


def test_what_is_malformed_spoils_nothing_beside_it() -> None:
    assert prefer(["wait==1, respond-async, (), x=, wait=2"]) == Prefer(True, 2.0)


TOKENS = st.sampled_from(
    ["wait", "respond-async", "x", "10", "=", '"', "\\", ",", ";", " ", "\t", "²", "\x00"]
)
PIECES = st.one_of(TOKENS, st.text(max_size=5))


@given(st.lists(st.lists(PIECES, max_size=30).map("".join), max_size=4))
def test_nothing_that_is_sent_is_an_error(fields: list[str]) -> None:
    wait = prefer(fields).wait
    assert wait is None or 0 <= wait <= LONGEST


@given(
    respond_async=st.booleans(),
    wait=st.none() | st.integers(0, 10**6),
    others=st.lists(
        st.sampled_from(["return=minimal", 'a="b,c"', "handling=strict; b", "d", "é"]), max_size=5
    ),
    luck=st.randoms(use_true_random=False),
)
def test_what_is_written_well_is_understood_among_others(
    respond_async: bool, wait: int | None, others: list[str], luck: random.Random
) -> None:
    written = [*others, *["respond-async"] * respond_async, *([] if wait is None else [f"wait={wait}"])]
    luck.shuffle(written)
    cut = luck.randrange(len(written) + 1)
    fields = [", ".join(written[:cut]), ",".join(written[cut:])]
    assert prefer(fields) == Prefer(respond_async, None if wait is None else float(wait))


@pytest.mark.parametrize(
    "bad", ['"' * 8000, '"\\' * 4000, "a " * 4000, "a" + " " * 8000 + "(", "a=" * 4000, ";" * 8000]
)
def test_nobody_can_make_it_slow(bad: str) -> None:
    began = time.process_time()
    prefer([bad] * 4)
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(
    ("respond_async", "wait", "text"),
    [
        (False, None, ""),
        (True, None, "respond-async"),
        (False, 10.0, "wait=10"),
        (True, 0.0, "respond-async, wait=0"),
    ],
)
def test_what_was_followed_is_told(respond_async: bool, wait: float | None, text: str) -> None:
    assert applied(respond_async=respond_async, wait=wait) == text
