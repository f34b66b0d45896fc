"""The defaults of the manifest, as the host hands them to the handler."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

MANIFEST = Path(__file__).parents[4] / "plugins/sheets/src/sheets/handler.toml"
DEFAULTS: dict[str, Any] = {
    name: setting["default"]
    for name, setting in tomllib.loads(MANIFEST.read_text(encoding="utf-8"))["config"].items()
    if "default" in setting
}
