"""Strategies are found by name, by entry point, and by path."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from strategies import FirstStrategy, HedgedOptions, HedgedStrategy, build_options, find_strategy, registry


def test_built_in_names() -> None:
    """The names that the route table uses."""
    assert find_strategy("hedged") is HedgedStrategy


def test_a_class_by_its_path() -> None:
    """Any importable strategy can be named without registering it."""
    assert find_strategy("strategies.first:FirstStrategy") is FirstStrategy


def test_an_installed_package_publishes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry-point group is looked up by name."""
    point = EntryPoint("mine", "strategies.first:FirstStrategy", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert find_strategy("mine") is FirstStrategy


def test_a_slip_of_the_pen_gets_a_suggestion() -> None:
    """The nearest name is offered."""
    with pytest.raises(LookupError, match="'hegded' is unknown; did you mean 'hedged'"):
        find_strategy("hegded")


@pytest.mark.parametrize("path", ["no.such.module:Thing", "strategies.first:Nothing"])
def test_a_path_that_leads_nowhere(path: str) -> None:
    """The reason is in the message."""
    with pytest.raises(LookupError, match="cannot be loaded"):
        find_strategy(path)


def test_something_that_is_no_strategy() -> None:
    """A class of another kind is refused by name."""
    with pytest.raises(LookupError, match="is not a subclass"):
        find_strategy("strategies.deadline:Deadline")


def test_options_come_from_plain_data() -> None:
    """A whole number will do for seconds."""
    assert build_options(HedgedStrategy, {"delay": 1}) == HedgedOptions(delay=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dealy": 0.1}, "unknown option 'dealy'; did you mean 'delay'"),
        ({"delay": "fast"}, "option 'delay' must be a float, not 'fast'"),
        ({"delay": True}, "option 'delay' must be a float, not True"),
        ({"delay": -1}, "delay must be 0 seconds or more, not -1"),
    ],
)
def test_bad_options_are_named(given: dict[str, object], message: str) -> None:
    """Unknown, of the wrong type, out of range."""
    with pytest.raises(ValueError, match=message):
        build_options(HedgedStrategy, given)
