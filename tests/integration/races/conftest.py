"""Fixtures of the race tests."""

from __future__ import annotations

import pytest

from handler_host.lifecycle import processor_load


@pytest.fixture
def any_load_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count any load as bound by the processor: how busy the machine is must not decide about a test."""
    monkeypatch.setattr(processor_load, "BOUND_SHARE", 0.0)
    monkeypatch.setattr(processor_load, "MIN_IDLE", -1000.0)
