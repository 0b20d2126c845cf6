"""The mark of tests that kill processes: they take a minute, and ``-m 'not kills'`` leaves them out."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "kills: kills processes, and takes a minute for that")
