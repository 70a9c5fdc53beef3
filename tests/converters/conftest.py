"""What tests of conversions share."""

from __future__ import annotations

import pytest

from guestctl.converters import engine


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows one after the other, so that a conversion stops after as many as a test wants."""
    monkeypatch.setattr(engine, "thread_count", lambda: 1)
