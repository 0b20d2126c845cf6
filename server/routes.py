"""The route table: which path is served by which strategy over which upstream, as data.

Reading it is pure and reports all problems at once, in the words of the file. It opens nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from itertools import cycle, islice
from typing import Any

from marshmallow import Schema, ValidationError
from marshmallow import fields as f
from marshmallow.validate import Length, OneOf, Range, Regexp

from server.downloads.source import OPERATION as FILE
from server.downloads.source import UPSTREAM as FILES
from server.events.handlers import OPERATIONS
from server.events.handlers import UPSTREAM as EVENTS
from server.render import Render, find_render
from server.setting_kinds import it_is, upstream_url
from server.settings import ConfigError, Settings
from strategies import Strategy, Target, build_options, change_options, find_strategy, value
from upstream.breaker import BreakerOptions
from upstream.call import DEFAULT_OPERATION
from upstream.payloads import Accept, find_accept

DEFAULT_BREAKER = BreakerOptions()


def variables_in(text: str) -> set[str]:
    """The variables that a route table looks up: whatever stands there as ``"$NAME"``."""
    return set(re.findall(r'"\$(\w+)"', text))


def breaker_options(settings: Settings) -> BreakerOptions:
    """What ``breaker = true`` stands for."""
    return BreakerOptions(
        failures=settings.breaker_failures,
        window=settings.breaker_window,
        open_time=settings.breaker_open_time,
        cap=settings.breaker_cap,
    )


@value
class UpstreamEntry:
    """
    An upstream as the table has it. *url* is None while its variable is not set; then the built-in
    simulator answers at the path *simulator*.
    """

    name: str
    url: str | None
    variable: str | None
    simulator: str | None
    accept: Accept
    timeout: float | None
    max_body: int
    operations: tuple[str, ...]
    breaker: BreakerOptions | None
    fair_time: float
    retry: bool
    statuses: frozenset[int]


@value
class Route:
    """One path: how it is answered, and with which status when the strategy's rule is not met."""

    name: str
    path: str
    summary: str
    strategy: type[Strategy[Any]]
    strategy_name: str
    options: Any
    targets: tuple[Target, ...]
    render: Render
    on_failure: int


@value
class Table:
    """Everything the file says."""

    upstreams: tuple[UpstreamEntry, ...]
    routes: tuple[Route, ...]


_NAME = Regexp(r"\A[a-z][a-z0-9_-]{0,62}\Z", error="Must be lower-case letters, digits, '-' and '_'.")


class _UpstreamSchema(Schema):
    url = f.String(required=True, validate=Length(1))
    simulator = f.String(load_default=None, validate=Regexp("/.*", error="Must begin with '/'."))
    accept = f.String(load_default="json")
    timeout = f.Float(load_default=None, validate=Range(0.001, 600))
    max_body = f.Integer(load_default=1024 * 1024, strict=True, validate=Range(1, 8 * 1024 * 1024))
    operations = f.List(f.String(validate=Length(1)), load_default=[DEFAULT_OPERATION], validate=Length(1))
    breaker = f.Raw(load_default=False)
    fair_time = f.Float(load_default=1.0, validate=Range(0, 600))
    retry = f.Boolean(load_default=False, truthy={True}, falsy={False})
    statuses = f.List(
        f.Integer(strict=True, validate=Range(200, 299)), load_default=[200], validate=Length(1)
    )


class _RouteSchema(Schema):
    name = f.String(required=True, validate=_NAME)
    path = f.String(
        required=True, validate=Regexp("/[^{}?#]*$", error="Must begin with '/', without '{{}}?#'.")
    )
    summary = f.String(load_default="")
    strategy = f.String(required=True)
    upstream = f.Raw(required=True)
    attempts = f.Integer(load_default=None, strict=True, validate=Range(1, 20))
    options = f.Dict(keys=f.String(), load_default=dict)
    render = f.String(load_default="winner")
    on_failure = f.Integer(load_default=503, strict=True, validate=OneOf([500, 502, 503, 504]))


class _TableSchema(Schema):
    upstream = f.Dict(keys=f.String(validate=_NAME), values=f.Nested(_UpstreamSchema), required=True)
    route = f.List(f.Nested(_RouteSchema), required=True, validate=Length(1))


def load_table(text: str, environ: Mapping[str, str], breaker: BreakerOptions = DEFAULT_BREAKER) -> Table:
    """
    The route table from TOML; ``$NAME`` as an upstream's URL is looked up in *environ*.

    ``breaker = true`` stands for the options *breaker*; a table of options changes some of them.

    Raises:
        ConfigError: with every problem in the file.
    """
    try:
        data = _TableSchema().load(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"routes: {error}"]) from error
    except ValidationError as error:
        raise ConfigError(list(_flatten("routes", error.messages_dict))) from error
    problems: list[str] = []
    upstreams = [
        _upstream(name, entry, environ, breaker, problems) for name, entry in data["upstream"].items()
    ]
    routes = [_route(entry, set(data["upstream"]), problems) for entry in data["route"]]
    for upstream in (one for one in upstreams if one is not None and one.breaker is not None):
        asked = {DEFAULT_OPERATION} if any(_asks(route, upstream.name) for route in routes) else set()
        asked |= set(OPERATIONS) if upstream.name == EVENTS else set()
        asked |= {FILE} if upstream.name == FILES else set()
        missing = sorted(asked - set(upstream.operations))
        if missing:
            problems.append(f"upstream {upstream.name}: operations must include {', '.join(missing)}")
    for key in ("name", "path"):
        given = [entry[key] for entry in data["route"]]
        problems += [
            f"routes: {key} {one!r} is used twice" for one in sorted({g for g in given if given.count(g) > 1})
        ]
    if problems:
        raise ConfigError(problems)
    return Table(tuple(u for u in upstreams if u), tuple(r for r in routes if r))


def _upstream(
    name: str,
    entry: dict[str, Any],
    environ: Mapping[str, str],
    breaker: BreakerOptions,
    problems: list[str],
) -> UpstreamEntry | None:
    variable = entry["url"][1:] if entry["url"].startswith("$") else None
    url = environ.get(variable) if variable else entry["url"]
    if url is None and entry["simulator"] is None:
        problems.append(f"upstream {name}: {variable} is not set, and there is no simulator")
    if url is not None:
        try:
            upstream_url(url)
        except ValidationError as error:
            said = " ".join(map(str, error.messages)) + it_is(url)
            problems.append(f"{variable or f'upstream {name}: url'}: {said}")
    try:
        accept = find_accept(entry["accept"])
        options = _breaker(entry["breaker"], breaker)
    except (LookupError, ValueError) as error:
        problems.append(f"upstream {name}: {error.args[0]}")
        return None
    return UpstreamEntry(
        name,
        url,
        variable,
        entry["simulator"],
        accept,
        entry["timeout"],
        entry["max_body"],
        tuple(entry["operations"]),
        options,
        entry["fair_time"],
        entry["retry"],
        frozenset(entry["statuses"]),
    )


def _asks(route: Route | None, upstream: str) -> bool:
    return route is not None and any(target.upstream == upstream for target in route.targets)


def _breaker(given: object, default: BreakerOptions) -> BreakerOptions | None:
    if isinstance(given, bool):
        return default if given else None
    if not isinstance(given, dict):
        raise ValueError(f"breaker must be true, false or a table, not {given!r}")
    return change_options(default, given)


def _route(entry: dict[str, Any], upstreams: set[str], problems: list[str]) -> Route | None:
    where = f"route {entry['name']}"
    named = [entry["upstream"]] if isinstance(entry["upstream"], str) else entry["upstream"]
    if not isinstance(named, list) or not named or not all(isinstance(name, str) for name in named):
        problems.append(f"{where}: upstream must be a name or a list of names")
        return None
    problems += [f"{where}: upstream {name!r} is not defined" for name in named if name not in upstreams]
    targets = tuple(Target(name) for name in islice(cycle(named), entry["attempts"] or len(named)))
    try:
        strategy = find_strategy(entry["strategy"])
        return Route(
            entry["name"],
            entry["path"],
            entry["summary"],
            strategy,
            entry["strategy"],
            build_options(strategy, entry["options"]),
            targets,
            find_render(entry["render"]),
            entry["on_failure"],
        )
    except (LookupError, ValueError) as error:
        problems.append(f"{where}: {error.args[0]}")
        return None


def _flatten(where: str, messages: Any) -> Any:
    """marshmallow's nested messages, one line each: ``routes.route.2.strategy: Missing data ...``."""
    if isinstance(messages, dict):
        for key, inner in messages.items():
            yield from _flatten(f"{where}.{key}", inner)
    else:
        yield f"{where}: {' '.join(map(str, messages))}"
