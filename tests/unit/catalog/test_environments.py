"""Handlers in their own virtual environments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from handler_host.catalog.catalog import Catalog, scan
from handler_host.catalog.environments import default_directory
from handler_host.config import CatalogConfig
from tests.unit.catalog.conftest import Site

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"


def environment(base: Path, name: str) -> Site:
    """Make the parts of a virtual environment that the host reads."""
    site = Site(base / name / "lib" / VERSION / "site-packages")
    site.path.mkdir(parents=True)
    (base / name / "bin").mkdir()
    (base / name / "bin" / "python").symlink_to(sys.executable)
    return site


def scan_with(site: Site, base: Path) -> Catalog:
    return scan(CatalogConfig(roots=(site.path,), include_sys_path=False, environments=base), {})


class TestEnvironments:
    def test_handler_with_manifest_and_interpreter(self, site: Site, tmp_path: Path) -> None:
        own = environment(tmp_path / "envs", "gpt_x")
        own.plugin("gpt-x", "gpt_x", version="3.0", manifest="title = 'X'\n")
        entry = scan_with(site, tmp_path / "envs").entries["gpt_x"]
        assert entry.problem is None
        assert (entry.version, entry.paths, entry.root) == ("3.0", (), str(own.path))
        assert entry.python == str(tmp_path / "envs" / "gpt_x" / "bin" / "python")
        assert entry.manifest is not None
        assert entry.manifest.title == "X"

    def test_overrides_the_shared_installation(self, site: Site, tmp_path: Path) -> None:
        site.plugin("gpt-x", "gpt_x", version="1.0")
        site.plugin("gpt-y", "gpt_y", version="1.0")
        environment(tmp_path / "envs", "gpt_x").plugin("other-x", "gpt_x", version="2.0")
        catalog = scan_with(site, tmp_path / "envs")
        assert (catalog.entries["gpt_x"].distribution, catalog.entries["gpt_x"].version) == ("other-x", "2.0")
        assert (catalog.entries["gpt_y"].version, catalog.entries["gpt_y"].python) == ("1.0", None)

    def test_has_only_its_own_handler(self, site: Site, tmp_path: Path) -> None:
        own = environment(tmp_path / "envs", "gpt_x")
        own.plugin("gpt-x", "gpt_x")
        own.plugin("gpt-y", "gpt_y")
        assert list(scan_with(site, tmp_path / "envs").entries) == ["gpt_x"]

    @pytest.mark.parametrize("broken", ["empty", "no interpreter", "no plugin"])
    def test_broken_one_is_a_warning(self, site: Site, tmp_path: Path, broken: str) -> None:
        site.plugin("gpt-x", "gpt_x")
        base = tmp_path / "envs"
        if broken == "empty":
            (base / "gpt_x").mkdir(parents=True)
        else:
            environment(base, "gpt_x")
        if broken == "no interpreter":
            (base / "gpt_x" / "bin" / "python").unlink()
        catalog = scan_with(site, base)
        assert catalog.entries["gpt_x"].python is None
        (warning,) = catalog.warnings
        assert str(base / "gpt_x") in warning
        assert "handler-host env create gpt_x" in warning

    @pytest.mark.parametrize(
        ("environ", "expected"),
        [
            ({"XDG_DATA_HOME": "/data", "HOME": "/home/user"}, "/data/handler-host/environments"),
            ({"XDG_DATA_HOME": "relative", "HOME": "/home/user"}, "/home/user/.local/share/handler-host/environments"),
            ({"HOME": "/home/user"}, "/home/user/.local/share/handler-host/environments"),
        ],
    )
    def test_default_directory_follows_xdg(self, environ: dict[str, str], expected: str) -> None:
        assert str(default_directory(environ)) == expected
