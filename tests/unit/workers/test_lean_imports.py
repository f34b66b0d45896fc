"""Where the compiled code of lean imports is, by the settings of the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handler_host.catalog.catalog import scan_config
from handler_host.channel.frames import LeanImports
from handler_host.config import CatalogConfig, Config, MemoryConfig
from handler_host.workers.launch_spec import lean_imports_of, policy_of
from tests.support import install_plugin

SOURCE = "class Handler: pass\n"


def lean_imports(tmp_path: Path, state_file: Path | None, environ: dict[str, str]) -> LeanImports:
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    install_plugin(root, "leaner", SOURCE, manifest='[lean]\npackages = ["lean-sdk==1.0"]\n')
    config = Config(
        catalog=CatalogConfig(roots=(root,), include_sys_path=False), memory=MemoryConfig(state_file=state_file)
    )
    entry = scan_config(config, {}).entries["leaner"]
    lean = lean_imports_of(config, policy_of(config, entry), entry, environ)
    assert lean is not None
    return lean


@pytest.mark.parametrize("state_file", [None, Path("/dev/null"), Path("/dev/zero")])
def test_without_a_state_file_nothing_is_beside_it(tmp_path: Path, state_file: Path | None) -> None:
    assert lean_imports(tmp_path, state_file, {}).fallback_cache is None


def test_directory_is_beside_the_state_file_before_it_exists(tmp_path: Path) -> None:
    state_file = tmp_path / "state" / "memory.json"
    assert lean_imports(tmp_path, state_file, {}).fallback_cache == str(tmp_path / "state" / "lean")


def test_relative_paths_are_those_of_the_host(tmp_path: Path) -> None:
    """Workers and compilers run elsewhere."""
    lean = lean_imports(tmp_path, Path("memory.json"), {"LEAN_CACHE": "cache"})
    assert (lean.cache, lean.fallback_cache) == (os.path.abspath("cache"), os.path.abspath("lean"))


def test_empty_variable_names_no_directory(tmp_path: Path) -> None:
    assert lean_imports(tmp_path, None, {"LEAN_CACHE": ""}).cache is None
