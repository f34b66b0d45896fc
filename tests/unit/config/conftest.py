"""A fixture that writes a configuration file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write ``host.toml``; return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "host.toml"
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write
