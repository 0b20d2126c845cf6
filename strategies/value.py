"""What a value is in this house: a dataclass that nobody changes.

A handful of values is made for every request. A runtime-frozen dataclass takes 0.86 µs to make where a
plain one with slots takes 0.22 (five fields, CPython 3.11, ``python -m timeit``), so the promise is kept
by the type checker, which refuses an assignment to a field, and not again at run time.
"""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """Make *cls* a value: slots, equality by fields, no assignment after creation (mypy's ward)."""
    return dataclass(slots=True)(cls)
