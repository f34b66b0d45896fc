"""Roots: a removed working directory, and the directories that ``.pth`` files name."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.catalog.catalog import scan
from handler_host.config import CatalogConfig

from .conftest import Look, Site


@pytest.fixture
def removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a directory the working directory and remove it, as a deploy does with an old release."""
    path = tmp_path / "releases" / "1"
    path.mkdir(parents=True)
    monkeypatch.chdir(path)
    path.rmdir()
    return path


class TestRemovedWorkingDirectory:
    def test_scan_finds_the_installed_plugins_and_warns(self, removed: Path) -> None:
        catalog = scan(CatalogConfig(), {})
        assert catalog.entries["gpt_a"].root
        (warning,) = (warning for warning in catalog.warnings if "working directory" in warning)
        assert "restart the host in a directory that exists" in warning

    @pytest.mark.parametrize("path", ["", ".", "lib"])
    def test_relative_entry_of_the_search_path_is_skipped(
        self, removed: Path, site: Site, look: Look, path: str
    ) -> None:
        site.plugin("plugin", "gpt")
        catalog = look(search_path=[path, str(site.path)])
        assert list(catalog.entries) == ["gpt"]

    def test_relative_entry_of_pythonpath_is_skipped(self, removed: Path, site: Site) -> None:
        site.plugin("plugin", "gpt")
        catalog = scan(CatalogConfig(roots=(site.path,)), {"PYTHONPATH": "lib::."})
        assert {"gpt", "gpt_a"} <= catalog.entries.keys()

    def test_relative_root_and_environments_are_skipped(self, removed: Path, site: Site) -> None:
        site.plugin("plugin", "gpt")
        settings = CatalogConfig(
            roots=(Path("plugins"), site.path), environments=Path("environments"), include_sys_path=False
        )
        catalog = scan(settings, {})
        assert list(catalog.entries) == ["gpt"]
        assert any(warning.startswith("catalog.roots: plugins is not a directory") for warning in catalog.warnings)
