"""Handlers in environments of their own: found by directory, preferred to the shared one, complained of when broken."""

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
    """Make what a virtual environment consists of, as far as the host looks."""
    site = Site(base / name / "lib" / VERSION / "site-packages")
    site.path.mkdir(parents=True)
    (base / name / "bin").mkdir()
    (base / name / "bin" / "python").symlink_to(sys.executable)
    return site


def scanned(site: Site, base: Path) -> Catalog:
    return scan(CatalogConfig(roots=(site.path,), include_sys_path=False, environments=base), {})


def test_a_handler_is_found_in_its_own_environment_with_manifest_and_interpreter(site: Site, tmp_path: Path) -> None:
    own = environment(tmp_path / "envs", "gpt_x")
    own.plugin("gpt-x", "gpt_x", version="3.0", manifest="title = 'X'\n")
    entry = scanned(site, tmp_path / "envs").entries["gpt_x"]
    assert entry.problem is None
    assert (entry.version, entry.paths, entry.root) == ("3.0", (), str(own.path))
    assert entry.python == str(tmp_path / "envs" / "gpt_x" / "bin" / "python")
    assert entry.manifest is not None
    assert entry.manifest.title == "X"


def test_given_it_is_installed_for_all_as_well_then_its_own_environment_wins(site: Site, tmp_path: Path) -> None:
    site.plugin("gpt-x", "gpt_x", version="1.0")
    site.plugin("gpt-y", "gpt_y", version="1.0")
    environment(tmp_path / "envs", "gpt_x").plugin("other-x", "gpt_x", version="2.0")
    found = scanned(site, tmp_path / "envs")
    assert (found.entries["gpt_x"].distribution, found.entries["gpt_x"].version) == ("other-x", "2.0")
    assert (found.entries["gpt_y"].version, found.entries["gpt_y"].python) == ("1.0", None)


def test_an_environment_offers_its_own_handler_only(site: Site, tmp_path: Path) -> None:
    own = environment(tmp_path / "envs", "gpt_x")
    own.plugin("gpt-x", "gpt_x")
    own.plugin("gpt-y", "gpt_y")
    assert list(scanned(site, tmp_path / "envs").entries) == ["gpt_x"]


@pytest.mark.parametrize("broken", ["empty", "no interpreter", "no plugin"])
def test_a_broken_environment_is_a_warning_that_names_it_and_harms_nobody(
    site: Site, tmp_path: Path, broken: str
) -> None:
    site.plugin("gpt-x", "gpt_x")
    base = tmp_path / "envs"
    if broken == "empty":
        (base / "gpt_x").mkdir(parents=True)
    else:
        environment(base, "gpt_x")
    if broken == "no interpreter":
        (base / "gpt_x" / "bin" / "python").unlink()
    found = scanned(site, base)
    assert found.entries["gpt_x"].python is None
    (warning,) = found.warnings
    assert str(base / "gpt_x") in warning
    assert "handler-host env create gpt_x" in warning


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_DATA_HOME": "/data", "HOME": "/home/me"}, "/data/handler-host/environments"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/home/me"}, "/home/me/.local/share/handler-host/environments"),
        ({"HOME": "/home/me"}, "/home/me/.local/share/handler-host/environments"),
    ],
)
def test_the_default_directory_is_that_of_the_xdg_base_directories(environ: dict[str, str], expected: str) -> None:
    assert str(default_directory(environ)) == expected
