"""Limits of the system for tests of all packages."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

PIDS = Path("/sys/fs/cgroup/pids")


@pytest.fixture
def few_processes() -> Iterator[Path]:
    """A control group in which no process can be started: ``ulimit -u`` does not bind root."""
    group = PIDS / f"handler-host-test-{secrets.token_hex(4)}"
    try:
        group.mkdir()
        (group / "pids.max").write_text("1")
    except OSError as error:
        pytest.skip(f"no control group v1 of process numbers can be made here: {error}")
    yield group
    group.rmdir()
