"""What a scan does not take into the host's memory."""

from __future__ import annotations

import subprocess
import sys

from .conftest import Site

HEAVY = {"configparser", "csv", "difflib", "email", "importlib.metadata", "pkg_resources", "zipfile"}


def test_a_scan_imports_neither_plugins_nor_what_only_mistakes_need(site: Site) -> None:
    site.plugin("some-plugin", "gpt", manifest="title = 'x'\n[config.model]\ntype = 'string'")
    code = (
        "import sys, pathlib\n"
        "before = set(sys.modules)\n"
        "from handler_host.catalog.catalog import scan\n"
        "from handler_host.config import CatalogConfig\n"
        f"found = scan(CatalogConfig(roots=(pathlib.Path({str(site.path)!r}),), include_sys_path=False), {{}})\n"
        "assert found.entries['gpt'].manifest, found\n"
        "print(*set(sys.modules) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert not loaded & HEAVY
    assert not {name for name in loaded if name.startswith("some_plugin")}
