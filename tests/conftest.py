"""What more than one folder of tests needs."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, settings

from server.front import FrontProtocol

# An example that takes long says something about this machine, not about what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[FrontProtocol]:
    """The connections as the server sees them, in the order in which they came."""
    seen: list[FrontProtocol] = []
    original = FrontProtocol.connection_made

    def spy(self: FrontProtocol, transport: asyncio.BaseTransport) -> None:
        seen.append(self)
        original(self, transport)

    monkeypatch.setattr(FrontProtocol, "connection_made", spy)
    return seen
