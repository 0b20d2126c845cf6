"""Which files there are when no real store is configured: the contract's simulation, one rule.

It is about the source of the files, not about their storage: a store that claimed an object it does not
have would hand out dead links, and a job that looks before it works would never work. So the stores do not
know this rule; those who produce files, or tell whether they are to be had, ask it here.
"""

from __future__ import annotations


def has_file(file_id: int) -> bool:
    """Whether the simulated source has that file; 70000 is one."""
    return file_id % 7 == 0
