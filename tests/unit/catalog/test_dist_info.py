"""Metadata directories: their names and versions, and eggs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from handler_host.catalog.catalog_entry import CatalogEntry

from .conftest import Look, Site

ENTRY_POINTS = "[handler_host.v1]\ngpt = {package}:Plugin\n"


def install_egg(directory: Path, egg: str, *, group: str = "handler_host.v1") -> Path:
    """Write an unzipped egg as easy_install leaves it."""
    package = egg.partition("-")[0]
    path = directory / egg
    (path / "EGG-INFO").mkdir(parents=True)
    (path / "EGG-INFO" / "PKG-INFO").write_text(f"Metadata-Version: 1.0\nName: {package}\nVersion: 1.5\n")
    (path / "EGG-INFO" / "entry_points.txt").write_text(f"[{group}]\ngpt = {package}:Plugin\n")
    (path / package).mkdir()
    (path / package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (path / package / "handler.toml").write_text("title = 'From an egg'\n")
    return path


def zip_egg(path: Path, group: str = "handler_host.v1") -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("EGG-INFO/entry_points.txt", f"[{group}]\ngpt = zipped:Plugin\n")
        archive.writestr("zipped/__init__.py", "")


def make_sources(directory: Path, name: str, version: str = "1.0") -> None:
    """Write sources with the ``NAME.egg-info`` that setuptools leaves in them."""
    info = directory / f"{name}.egg-info"
    info.mkdir(parents=True)
    (info / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS.format(package=name))
    (directory / name).mkdir()
    (directory / name / "__init__.py").write_text("raise RuntimeError('imported')\n")


def runnable(entry: CatalogEntry) -> CatalogEntry:
    assert entry.problem is None, entry.problem
    return entry


class TestEggInfo:
    @pytest.mark.parametrize("name", ["eggz", "x", "gpt_a", "abcdefghijk"])
    def test_beside_an_editable_install_is_the_same_distribution(
        self, tmp_path: Path, site: Site, look: Look, name: str
    ) -> None:
        """``pip wheel .`` leaves ``src/NAME.egg-info`` in the sources that the editable install points to."""
        sources = tmp_path / "src"
        site.install(name, ENTRY_POINTS.format(package=name), version="1.2.3", files={"_x.pth": f"{sources}\n"})
        make_sources(sources, name, version="1.2.3")
        path = [str(site.path), str(sources)]
        for catalog in (
            look(search_path=path, environ={"PYTHONPATH": str(sources)}),
            look(search_path=path[::-1], environ={"PYTHONPATH": str(sources)}),
            look(site, sources),
        ):
            assert runnable(catalog.entries["gpt"]).version == "1.2.3"
            assert catalog.warnings == ()

    @pytest.mark.parametrize(
        ("directory", "metadata", "version"),
        [
            ("plug.egg-info", "1.2", "1.2"),
            ("plug-1.0.egg-info", "1.0", "1.0"),
            ("plug-1.0-py3.11.egg-info", "1.0", "1.0"),
            ("plug-2.0rc1.egg-info", "2.0rc1", "2.0rc1"),
            ("plug-1!2.0.dist-info", "1!2.0", "1!2.0"),
            ("plug-1.0+local.1.dist-info", "1.0+local.1", "1.0+local.1"),
            ("plug-1.0_local.dist-info", "1.0+local", "1.0+local"),
            ("plug-1.0_1.dist-info", "1.0-1", "1.0-1"),
        ],
    )
    def test_version(self, site: Site, look: Look, directory: str, metadata: str, version: str) -> None:
        info = site.path / directory
        info.mkdir()
        name = "METADATA" if directory.endswith(".dist-info") else "PKG-INFO"
        (info / name).write_text(f"Metadata-Version: 2.1\nName: plug\nVersion: {metadata}\n\nVersion: 9\n")
        (info / "entry_points.txt").write_text(ENTRY_POINTS.format(package="plug"))
        (site.path / "plug.py").write_text("")
        entry = runnable(look(site).entries["gpt"])
        assert (entry.distribution, entry.version) == ("plug", version)


class TestNewestVersion:
    @pytest.mark.parametrize(
        ("older", "newer"),
        [
            ("2.0rc1", "2.0"),
            ("2.0.dev3", "2.0a1"),
            ("2.0b2", "2.0rc1"),
            ("2.0", "2.0.post1"),
            ("2.0", "2.0+local.1"),
            ("2.0+local.9", "2.0+local.10"),
            ("9.0", "1!1.0"),
            ("2.9", "2.10"),
            ("unknown", "0.1"),
        ],
    )
    @pytest.mark.parametrize("kind", ["dist-info", "egg-info"])
    def test_of_several_directories(self, site: Site, look: Look, older: str, newer: str, kind: str) -> None:
        for version in (older, newer):
            site.install("plug", ENTRY_POINTS.format(package="plug"), version=version, package="plug", kind=kind)
        catalog = look(site)
        assert runnable(catalog.entries["gpt"]).version == newer
        (warning,) = catalog.warnings
        assert f"plug-{newer}.{kind} is used" in warning
        assert f"plug-{older}.{kind}" in warning


class TestEggs:
    def test_on_the_path(self, site: Site, look: Look) -> None:
        egg = install_egg(site.path, "plug-1.5-py3.11.egg")
        (site.path / "easy-install.pth").write_text("./plug-1.5-py3.11.egg\n")
        catalog = look(search_path=[str(site.path), str(egg)], environ={"PYTHONPATH": f"{site.path}:{egg}"})
        entry = runnable(catalog.entries["gpt"])
        assert (entry.distribution, entry.version, entry.paths) == ("plug", "1.5", ())
        assert entry.manifest is not None
        assert entry.manifest.title == "From an egg"
        assert catalog.warnings == ()

    def test_in_a_configured_root(self, site: Site, look: Look) -> None:
        """A worker adds the root as a site directory, so that ``easy-install.pth`` puts the egg on its path."""
        install_egg(site.path, "plug-1.5-py3.11.egg")
        (site.path / "easy-install.pth").write_text("./plug-1.5-py3.11.egg\n")
        catalog = look(site)
        entry = runnable(catalog.entries["gpt"])
        assert (entry.version, entry.paths) == ("1.5", (str(site.path),))
        assert catalog.warnings == ()

    def test_project_of_an_egg_link(self, tmp_path: Path, site: Site, look: Look) -> None:
        project = tmp_path / "project"
        make_sources(project, "plug")
        (site.path / "plug.egg-link").write_text(f"{project}\n.")
        (site.path / "easy-install.pth").write_text(f"{project}\n")
        catalog = look(site)
        entry = runnable(catalog.entries["gpt"])
        assert catalog.warnings == ()
        assert (entry.distribution, entry.root, entry.paths) == ("plug", str(project), (str(site.path),))

    def test_that_is_not_on_the_path_is_a_warning(self, site: Site, look: Look) -> None:
        egg = install_egg(site.path, "plug-1.5-py3.11.egg")
        install_egg(site.path, "other-1.0-py3.11.egg", group="console_scripts")
        catalog = look(site)
        assert catalog.entries == {}
        assert catalog.warnings == (f"{egg} is an egg that is not on the path; install plug with pip",)

    def test_that_is_zipped_is_a_warning(self, site: Site, look: Look) -> None:
        zip_egg(site.path / "plug-1.5-py3.11.egg")
        zip_egg(site.path / "other-1.5-py3.11.egg", group="console_scripts")
        (site.path / "broken-1.5-py3.11.egg").write_bytes(b"not a zip file")
        (site.path / "easy-install.pth").write_text("./plug-1.5-py3.11.egg\n./other-1.5-py3.11.egg\n")
        catalog = look(site)
        assert catalog.entries == {}
        path = site.path / "plug-1.5-py3.11.egg"
        assert catalog.warnings == (f"{path} is a zipped egg, which the host does not read; install plug with pip",)

    def test_link_that_is_not_on_the_path_is_a_warning(self, tmp_path: Path, site: Site, look: Look) -> None:
        project = tmp_path / "project"
        make_sources(project, "plug")
        link = site.path / "plug.egg-link"
        link.write_text(f"{project}\n.")
        catalog = look(site)
        assert catalog.entries == {}
        assert catalog.warnings == (f"{link} is an egg link that is not on the path; install plug with pip",)
