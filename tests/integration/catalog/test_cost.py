"""A scan imports nothing that would cost the host memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.catalog.conftest import Site

HEAVY = {"configparser", "csv", "difflib", "email", "importlib.metadata", "pkg_resources", "zipfile"}


def test_scan_imports_neither_plugins_nor_heavy_modules(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.plugin("some-plugin", "gpt", manifest="title = 'x'\n[config.model]\ntype = 'string'")
    code = (
        "import sys, pathlib\n"
        "before = set(sys.modules)\n"
        "from handler_host.catalog.catalog import scan\n"
        "from handler_host.config import CatalogConfig\n"
        f"catalog = scan(CatalogConfig(roots=(pathlib.Path({str(site.path)!r}),), include_sys_path=False), {{}})\n"
        "assert catalog.entries['gpt'].manifest, catalog\n"
        "print(*set(sys.modules) - before)\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    loaded = set(process.stdout.split())
    assert not loaded & HEAVY
    assert not {name for name in loaded if name.startswith("some_plugin")}
