"""Limits of the system for tests of all packages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import control_group


@pytest.fixture
def few_processes() -> Iterator[Path]:
    """A control group in which no process can be started: ``ulimit -u`` does not bind root."""
    with control_group("pids", "pids.max", 1) as group:
        yield group
