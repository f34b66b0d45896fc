"""The variables with which gpt_d imports LiteLLM."""

from __future__ import annotations

import tomllib
from pathlib import Path

import gpt_d
from gpt_d.importing import SWITCHES


def test_check_of_lean_imports_uses_the_variables_of_the_import() -> None:
    manifest = tomllib.loads(Path(gpt_d.__file__).with_name("handler.toml").read_text())
    assert manifest["lean"]["environment"] == SWITCHES
