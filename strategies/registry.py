"""From a name in the route table to a strategy class: ours, an installed package's, or any by its path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from strategies.adaptive import AdaptiveStrategy
from strategies.all import AllStrategy
from strategies.base import Strategy
from strategies.collect import CollectStrategy
from strategies.first import FirstStrategy
from strategies.hedged import HedgedStrategy

T = TypeVar("T")

ENTRY_POINTS = "hedgerow.strategies"
"""The entry-point group under which a package publishes strategies of its own."""

BUILT_IN: Mapping[str, type[Strategy[Any]]] = {
    "all": AllStrategy,
    "first": FirstStrategy,
    "hedged": HedgedStrategy,
    "collect": CollectStrategy,
    "adaptive": AdaptiveStrategy,
}


def find_named(kind: str, name: str, known: Mapping[str, object]) -> object:
    """
    The object behind *name*: one of those *known*, or any importable one, as ``"module:attribute"``.

    Raises:
        LookupError: nothing goes by that name; the message says what does. *kind* says what is looked for.
    """
    if name in known:
        return known[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise LookupError(f"{kind} {name!r} is unknown{_did_you_mean(name, known)}")
    try:
        found: object = getattr(import_module(module), attribute)
    except Exception as error:  # whatever importing somebody else's module raises
        raise LookupError(f"{kind} {name!r} cannot be loaded: {error}") from error
    return found


def find_strategy(name: str) -> type[Strategy[Any]]:
    """
    The class behind *name*: a built-in, an entry point of the group `ENTRY_POINTS`, or ``"module:Class"``.

    Raises:
        LookupError: nothing goes by that name, or what does is no strategy.
    """
    published = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    found = find_named("strategy", name, {**published, **BUILT_IN})
    if isinstance(found, EntryPoint):
        found = found.load()
    if not (isinstance(found, type) and issubclass(found, Strategy)):
        raise LookupError(f"strategy {name!r} is not a subclass of strategies.Strategy")
    return found


def build_options(strategy: type[Strategy[Any]], given: Mapping[str, object]) -> Any:
    """
    The options of *strategy* from plain data.

    Raises:
        ValueError: an option is unknown, of the wrong type, or out of range; the message names it.
    """
    return change_options(strategy.Options(), given)


def change_options(options: T, given: Mapping[str, object]) -> T:
    """
    The dataclass *options* with what plain data says otherwise. Raises like `build_options`.
    """
    known = {field.name: getattr(options, field.name) for field in fields(options)}  # type: ignore[arg-type]
    for name, given_value in given.items():
        if name not in known:
            raise ValueError(f"unknown option {name!r}{_did_you_mean(name, known)}")
        _check_type(name, given_value, known[name])
    return replace(options, **given)  # type: ignore[type-var]


def _check_type(name: str, given: object, default: object) -> None:
    """An option keeps its type; a whole number will do for a float, a truth value for neither."""
    wanted: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if not isinstance(given, wanted) or (isinstance(given, bool) and bool not in wanted):
        raise ValueError(f"option {name!r} must be a {wanted[-1].__name__}, not {given!r}")


def _did_you_mean(name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there is {', '.join(sorted(known)) or 'none'}"
