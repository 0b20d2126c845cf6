"""The kinds of values that settings have, and what must hold for them, in the words of whoever sets them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from marshmallow import ValidationError
from marshmallow import fields as f
from marshmallow.validate import Range
from yarl import URL

from server.clients import Network, parse_networks
from server.webhooks.signing import AT_ONCE, check_secret
from upstream.simulator.latency import parse_latency


class Milliseconds(f.Integer):
    """Whole milliseconds outside, seconds inside."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        whole = super()._deserialize(value, attr, data, **kwargs)
        return None if whole is None else whole / 1000

    def _validate(self, value: Any) -> None:
        super()._validate(None if value is None else round(value * 1000))


class Words(f.Field[tuple[str, ...]]):
    """A list, separated by commas."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[str, ...]:
        words = tuple(word.strip() for word in value.split(",") if word.strip())
        if not words:
            raise ValidationError("Must name at least one.")
        return words


class Switch(f.Boolean):
    """``on`` or ``off``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(truthy={"on"}, falsy={"off"}, **kwargs)
        self.error_messages["invalid"] = "Must be on or off."


class Truth(f.Boolean):
    """``true`` or ``false``, as the variables of S3 and of the delay have always been written."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(truthy={"true", "1", "on"}, falsy={"false", "0", "off"}, **kwargs)
        self.error_messages["invalid"] = "Must be true or false."

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return super()._deserialize(value.lower(), attr, data, **kwargs)


class Networks(f.Field[tuple[Network, ...]]):
    """Addresses and networks, separated by commas."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[Network, ...]:
        try:
            networks = parse_networks(value)
        except ValueError as error:
            raise ValidationError(str(error)) from error
        if not networks:
            raise ValidationError("Must name at least one.")
        return networks


class Workers(f.Integer):
    """A whole number, or ``auto``: as many as there are cores that we may run on."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return super()._deserialize(cores() if value == "auto" else value, attr, data, **kwargs)


def cores() -> int:
    """How many we may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def latency(value: str) -> None:
    """Must be a latency of the simulator."""
    try:
        parse_latency(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def is_url(value: str, form: str) -> bool:
    """Whether *value* has that *form*, a host that can be asked, a port if any, and no blanks or controls."""
    if re.search(r"[\s\x00-\x1f\x7f]", value) or not re.fullmatch(form, value):
        return False
    try:  # urlsplit is the stricter one about ports, and URL, which requests are sent with, about hosts
        return bool(URL(value).host) and urlsplit(value).port != 0
    except ValueError:
        return False


def url(value: str) -> None:
    """Must be the URL of a host."""
    if not is_url(value, r"https?://[^/?#@]+/?"):
        raise ValidationError("Must be http:// or https://, a host, and perhaps a port (1 to 65535).")


def s3_url(value: str) -> None:
    """The same, and a host as S3's clients want it."""
    url(value)
    if "_" in (urlsplit(value).hostname or ""):
        raise ValidationError("Must be the URL of a host without '_'.")


def collector_url(value: str) -> None:
    """Must be the URL of a host, perhaps with a path."""
    if not is_url(value, r"https?://[^/?#@]+(/[^?#]*)?"):
        raise ValidationError(
            "Must be http:// or https://, a host, and perhaps a port (1 to 65535) and a path, without blanks."
        )


def upstream_url(value: str) -> None:
    """Must be a URL that can be asked, perhaps with a user, a path and a query."""
    if not is_url(value, r"https?://([^/?#@]*@)?[^/?#@]+([/?#].*)?"):
        raise ValidationError(
            "Must be http:// or https://, a host, and perhaps a port (1 to 65535), a path and a query, "
            "without blanks."
        )


def redis_url(value: str) -> None:
    """Must be a URL that a job store may have."""
    if not re.fullmatch(r"(rediss?|unix)://\S+", value):
        raise ValidationError("Must begin with redis://, rediss:// or unix://.")
    if value.startswith("unix:"):  # the path is that of a file
        return
    try:
        parts = urlsplit(value)
        good = parts.port != 0 and re.fullmatch(r"/?|/[0-9]+", parts.path)
    except ValueError:  # the port is no port
        good = None
    if not good:
        raise ValidationError(
            "Must have a port from 1 to 65535 or none, and after it a slash and the number of a database or "
            "nothing. Special characters in a password have to be percent-encoded."
        )


def bucket(value: str) -> None:
    """Must be a name that S3 lets a bucket have."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", value):
        raise ValidationError(
            "Must be 3 to 63 lower-case letters, digits, '.' and '-', with a letter or digit at both ends."
        )


def origins(value: tuple[str, ...]) -> None:
    """Must be what browsers send as ``Origin``, or ``*`` for all; ``null`` is what a page in a file sends."""
    for one in value:
        if one not in ("*", "null") and not is_url(one, r"[a-z][a-z0-9+.-]*://[^/?#@*]+"):
            raise ValidationError(
                "Must be *, or origins: scheme://host or scheme://host:port, without a path."
            )


def it_is(value: str) -> str:
    """What a message says of a wrong *value*: nothing where a password or a key may stand in it."""
    return "" if "@" in value or "?" in value else f" It is {value[:40]!r}."


def secret(value: tuple[str, ...]) -> None:
    """Must be one or two that webhooks can be signed with."""
    if len(value) > AT_ONCE:
        raise ValidationError(f"Must be at most {AT_ONCE}.")
    for one in value:
        try:
            check_secret(one)
        except ValueError as error:
            raise ValidationError(str(error)) from error


def text(
    name: str, default: str | None, what: str, validate: Callable[[str], object] | None = None
) -> f.String:
    """Any text that *validate* lets through."""
    return f.String(validate=validate, **_field(name, default, what))


def whole(name: str, default: int | None, bounds: tuple[int, int] | None, what: str) -> f.Integer:
    """A whole number within those *bounds*."""
    return f.Integer(validate=bounds and Range(*bounds), **_field(name, default, what))


def milliseconds(name: str, default: float, bounds: tuple[int, int], what: str) -> Milliseconds:
    """So many, within those *bounds*; the *default* is in seconds."""
    return Milliseconds(validate=Range(*bounds), **_field(name, default, what))


def share(name: str, default: float, what: str) -> f.Float:
    """A number from 0 to 1."""
    return f.Float(validate=Range(0, 1), **_field(name, default, what))


def switch(name: str, default: bool, what: str) -> Switch:
    """``on`` or ``off``."""
    return Switch(**_field(name, default, what))


def truth(name: str, default: bool, what: str) -> Truth:
    """``true`` or ``false``."""
    return Truth(**_field(name, default, what))


def words(
    name: str,
    default: tuple[str, ...],
    what: str,
    validate: Callable[[tuple[str, ...]], object] | None = None,
) -> Words:
    """A list, separated by commas."""
    return Words(validate=validate, **_field(name, default, what))


def _field(name: str, default: object, what: str) -> dict[str, Any]:
    return {"data_key": name, "load_default": default, "metadata": {"description": what}}
