"""Fixtures of the race tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from handler_host.lifecycle import processor_load
from handler_host.memory.footprints import FootprintStore
from tests.integration.races.several_workers import MB
from tests.support import install_puppet, room_for


@pytest.fixture
def any_load_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count any load as bound by the processor: how busy the machine is must not decide about a test."""
    monkeypatch.setattr(processor_load, "BOUND_SHARE", 0.0)
    monkeypatch.setattr(processor_load, "MIN_IDLE", -1000.0)


@pytest.fixture
def small_budget(tmp_path: Path) -> dict[str, Any]:
    """Return the keys of a budget with room for three workers of 1,000 MB, as they were learned."""
    footprints = FootprintStore(tmp_path / "memory.json")
    for name in ("puppet", "single", "third"):
        install_puppet(tmp_path, name)
        footprints.record_usage((name, name, "1.0"), peak=1000 * MB, steady=1000 * MB)
    footprints.save(footprints.snapshot())
    return {"state_file": tmp_path / "memory.json", "headroom": 0, "limit": room_for(3500 * MB), "wait": 20.0}
