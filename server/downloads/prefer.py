"""What a client would like, by RFC 7240: to be answered later rather than wait, or to wait so long at most.

A preference is a hint. What is malformed or unknown is passed over, and never an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from strategies import value

LONGEST = 2**31
"""Seconds that a longer wait is taken for, as RFC 9111 does."""
_ELEMENT = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+"?)++')
"""Up to a comma that is not in quotes. Possessive, like the other: nobody can make it go back and forth."""
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PREFERENCE = re.compile(
    rf'({_WORD})[ \t]*+(?:=[ \t]*+(?:({_WORD})|"((?:[^"\\]|\\.)*+)")?[ \t]*+)?(?:;.*)?', re.DOTALL
)


@value
class Prefer:
    """
    Attributes:
        respond_async: whether the client would take a 202, and look later.
        wait: the seconds that it would wait for the answer at most; None if it said nothing.
    """

    respond_async: bool = False
    wait: float | None = None


def prefer(fields: Iterable[str]) -> Prefer:
    """What the ``Prefer`` headers of a request come to. Of two that say the same thing the first counts."""
    found: dict[str, str] = {}
    for field in fields:
        for element in _ELEMENT.findall(field):
            preference = _PREFERENCE.fullmatch(element.strip(" \t"))
            if preference is not None:
                name, token, quoted = preference.groups()
                found.setdefault(name.lower(), token or re.sub(r"\\(.)", r"\1", quoted or ""))
    return Prefer(found.get("respond-async") == "", _seconds(found.get("wait", "")))


def applied(*, respond_async: bool = False, wait: float | None = None) -> str:
    """The ``Preference-Applied`` header for the preferences that were followed; empty for none."""
    told = ["respond-async"] if respond_async else []
    return ", ".join(told if wait is None else [*told, f"wait={int(wait)}"])


def _seconds(text: str) -> float | None:
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0")
    return float(LONGEST if len(digits) > len(str(LONGEST)) else min(int(digits or "0"), LONGEST))
