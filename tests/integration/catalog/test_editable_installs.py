"""Case 43: pip installs editable projects of the common build backends while the host runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from handler_host.catalog.catalog import Catalog, diff, scan
from handler_host.config import CatalogConfig

pytestmark = pytest.mark.slow

HATCH_PACKAGES = "[tool.hatch.build.targets.wheel]\npackages = ['{folder}{name}']\n"
BACKENDS = {
    "setuptools": ("setuptools", "setuptools.build_meta", "[tool.setuptools.packages.find]\nwhere = ['{where}']\n"),
    "hatchling": ("hatchling", "hatchling.build", HATCH_PACKAGES),
    # With `dev-mode-exact` hatchling leaves a finder instead of a directory.
    "hatchling_exact": ("hatchling", "hatchling.build", "[tool.hatch.build]\ndev-mode-exact = true\n" + HATCH_PACKAGES),
    "flit": ("flit_core", "flit_core.buildapi", ""),
    "uv": ("uv_build", "uv_build", "[tool.uv.build-backend]\nmodule-root = '{root}'\n"),
}
PROJECTS = [f"{backend}_{layout}" for backend in BACKENDS for layout in ("src", "flat")]

PYPROJECT = """\
[build-system]
requires = ["{requires}"]
build-backend = "{backend}"

[project]
name = "gpt-{name}"
version = "1.0"
description = "A plugin"

[project.entry-points."handler_host.v1"]
{name} = "gpt_{name}.part:Plugin"

"""

INIT = """\
import os, pathlib
if "MAY_BE_IMPORTED" not in os.environ:
    pathlib.Path(__file__).with_name("executed").touch()
"""


@dataclass(frozen=True)
class Installed:
    before: Catalog
    after: Catalog
    site: Path
    sources: Mapping[str, Path]
    """The package of each project."""


def make_project(directory: Path, name: str) -> Path:
    """Write a project; return its package."""
    backend, _, layout = name.rpartition("_")
    requires, build_backend, settings = BACKENDS[backend]
    folder = "src/" if layout == "src" else ""
    package = directory / folder / f"gpt_{name}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(INIT)
    (package / "part.py").write_text("class Plugin: pass\n")
    (package / "handler.toml").write_text(f"title = '{name}'\n")
    settings = settings.format(folder=folder, name=f"gpt_{name}", where=folder or ".", root=folder.rstrip("/"))
    text = PYPROJECT.format(requires=requires, backend=build_backend, name=name)
    (directory / "pyproject.toml").write_text(text + settings)
    return package


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install all projects; return the catalogs before and after."""
    base = tmp_path_factory.mktemp("editables")
    packages = {name: make_project(base / name, name) for name in PROJECTS}
    site = base / "prefix" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    settings = CatalogConfig(roots=(site,), include_sys_path=False)
    before = scan(settings, {})
    editables = [word for name in PROJECTS for word in ("--editable", str(base / name))]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    # uv_build searches the path for its program.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    process = subprocess.run(
        [*pip, "--prefix", str(base / "prefix"), *editables],
        env={**os.environ, **quiet, "PATH": path},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return Installed(before, scan(settings, {}), site, packages)


class TestScan:
    @pytest.mark.parametrize("name", PROJECTS)
    def test_case_43_finds_handler_and_manifest(self, installed: Installed, name: str) -> None:
        assert name not in installed.before.entries
        entry = installed.after.entries[name]
        assert entry.problem is None
        assert entry.manifest is not None
        assert entry.manifest.title == name
        assert entry.manifest_path is not None
        assert Path(entry.manifest_path).samefile(installed.sources[name] / "handler.toml")

    @pytest.mark.parametrize("name", PROJECTS)
    def test_case_43_executes_nothing(self, installed: Installed, name: str) -> None:
        assert not [module for module in sys.modules if module.startswith(f"gpt_{name}")]
        assert not (installed.sources[name] / "executed").exists()

    def test_rescan_names_the_additions(self, installed: Installed) -> None:
        assert diff(installed.before, installed.after).added == tuple(sorted(PROJECTS))
        assert installed.after.warnings == ()


class TestWorker:
    def test_imports_the_located_module(self, installed: Installed) -> None:
        """Python's import agrees with the catalog, which imports nothing."""
        entries = [installed.after.entries[name] for name in PROJECTS]
        assert {entry.paths for entry in entries} == {(str(installed.site),)}
        modules = [entry.entry_point.partition(".")[0] for entry in entries]
        code = (
            f"import importlib, site; site.addsitedir({str(installed.site)!r})\n"
            f"for name in {modules}: print(importlib.import_module(name + '.part').__file__)\n"
        )
        environment = {**os.environ, "MAY_BE_IMPORTED": "1"}
        process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        imported = [Path(line).parent for line in process.stdout.splitlines()]
        for directory, name in zip(imported, PROJECTS, strict=True):
            assert directory.samefile(installed.sources[name])


class TestBuildInSources:
    @pytest.mark.parametrize("name", ["setuptools_src", "setuptools_flat"])
    def test_wheel_leaves_one_handler(self, installed: Installed, name: str, tmp_path: Path) -> None:
        """``pip wheel .`` leaves ``NAME.egg-info`` in the sources, which the editable install has on the path."""
        project = installed.site.parents[3] / name
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
        process = subprocess.run([*command, "--wheel-dir", str(tmp_path), str(project)], capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        sources = installed.sources[name].parent
        assert list(sources.glob("*.egg-info"))
        catalog = scan(CatalogConfig(), {"PYTHONPATH": str(sources)}, search_path=[str(installed.site), str(sources)])
        assert catalog.entries[name] == installed.after.entries[name]
