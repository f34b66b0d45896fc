"""Locating modules and manifests without importing, in the layouts of installers and of people."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from .conftest import Look, Site

MANIFEST = "title = 'found'"


def project(tmp_path: Path, *files: str) -> Path:
    """Write sources that must not run, with a valid manifest where a file is one."""
    for name in files:
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MANIFEST if name.endswith(".toml") else "raise RuntimeError('imported')\n")
    return tmp_path / "project"


def entry_points(value: str) -> str:
    return f"[handler_host.v1]\ngpt = {value}\n"


def title(look: Look, site: Site) -> str | None:
    entry = look(site).entries["gpt"]
    assert entry.problem is None, entry.problem
    return entry.manifest.title if entry.manifest is not None else None


FINDERS = {
    "__editable___gpt_1_0_finder.py": "raise RuntimeError\nMAPPING: dict[str, str] = {'gpt': %r}\n",
    "__editable___gpt_old_finder.py": "MAPPING = {'gpt': %r}\nraise RuntimeError\n",
    "_editable_impl_gpt.py": "from x import RedirectingFinder as F\nF.install()\nF.map_module('gpt', %r)\n",
}


class TestModules:
    def test_dotted_module_needs_only_its_package(self, site: Site, look: Look) -> None:
        """``a/__init__.py`` may change where ``a.b`` is, and only an import would tell."""
        site.install("a", entry_points("a.b.c:P"), package="a", manifest=MANIFEST)
        assert title(look, site) == "found"
        assert not {"a", "a.b"} & sys.modules.keys()

    def test_namespace_package(self, site: Site, look: Look) -> None:
        site.install("one", entry_points("space.one:P"), package="space/one", manifest=MANIFEST)
        site.install("two", "[handler_host.v1]\ntwo = space.two:P\n", package="space/two", manifest="title = 'two'")
        site.install(
            "three", "[handler_host.v1]\nthree = space.three:P\nnone = space:P\n", files={"space/three.py": ""}
        )
        entries = look(site).entries
        assert [entries[name].manifest_path for name in ("gpt", "two", "three")] == [
            str(site.path / "space" / "one" / "handler.toml"),
            str(site.path / "space" / "two" / "handler.toml"),
            None,
        ]
        assert entries["three"].problem is None
        assert entries["none"].problem is not None

    def test_single_module_has_the_manifest_of_its_distribution(self, site: Site, look: Look) -> None:
        site.install("owner", entry_points("owner:P"), files={"owner.py": "", "handler.toml": MANIFEST})
        site.install("other", "[handler_host.v1]\nother = other:P\n", files={"other.py": ""})
        entries = look(site).entries
        assert entries["gpt"].manifest is not None
        assert entries["other"].manifest is None

    def test_compiled_module(self, site: Site, look: Look) -> None:
        site.install("native", entry_points("native:P"), files={"native.abi3.so": b""})
        assert title(look, site) is None

    def test_module_elsewhere_on_the_path(self, site: Site, another_site: Site, look: Look) -> None:
        site.install("pointer", entry_points("pointed:P"))
        another_site.install("pointed", package="pointed", manifest=MANIFEST)
        entry = look(search_path=[str(site.path), str(another_site.path)]).entries["gpt"]
        assert entry.problem is None
        assert entry.manifest is not None
        assert entry.paths == ()


class TestPathFiles:
    def test_points_to_the_sources(self, tmp_path: Path, site: Site, look: Look) -> None:
        sources = project(tmp_path, "gpt/__init__.py", "gpt/handler.toml")
        pth = f"# comment\nimport os; os.abort()\n\n{sources}\n"
        site.install("gpt", entry_points("gpt:P"), files={"_gpt.pth": pth})
        assert title(look, site) == "found"
        assert look(site).entries["gpt"].paths == (str(site.path),)

    def test_without_a_record(self, tmp_path: Path, site: Site, look: Look) -> None:
        sources = project(tmp_path, "gpt.py", "handler.toml")
        info = site.install("gpt", entry_points("gpt:P"), files={"easy-install.pth": f"{sources}\n"})
        (info / "RECORD").unlink()
        assert title(look, site) == "found"

    def test_directory_that_is_not_a_site_directory(self, tmp_path: Path, site: Site, look: Look) -> None:
        """Python reads ``.pth`` files only in site directories, and those of ``PYTHONPATH`` are not."""
        sources = project(tmp_path, "gpt/__init__.py")
        site.install("gpt", entry_points("gpt:P"), files={"_gpt.pth": f"{sources}\n"})
        assert look(search_path=[str(site.path)]).entries["gpt"].paths == (str(site.path),)


class TestDirectUrl:
    @pytest.mark.parametrize("layout", ["src", "."])
    def test_points_to_the_project(self, tmp_path: Path, site: Site, look: Look, layout: str) -> None:
        sources = project(tmp_path / "with blank", f"{layout}/gpt/__init__.py", f"{layout}/gpt/handler.toml")
        direct_url = {"url": sources.as_uri(), "dir_info": {"editable": True}}
        site.install("gpt", entry_points("gpt:P"), files={"gpt-1.0.dist-info/direct_url.json": json.dumps(direct_url)})
        assert title(look, site) == "found"

    @pytest.mark.parametrize(
        "direct_url",
        [
            "{",
            "[]",
            '{"url": 5, "dir_info": {"editable": true}}',
            '{"url": "file:///nowhere\\u0000", "dir_info": {"editable": true}}',
            '{"url": "file://[", "dir_info": {"editable": true}}',
            '{"url": "https://example.org/x", "dir_info": {"editable": true}}',
        ],
    )
    def test_invalid(self, site: Site, look: Look, direct_url: str) -> None:
        site.install("gpt", entry_points("absent:P"), files={"gpt-1.0.dist-info/direct_url.json": direct_url})
        problem = look(site).entries["gpt"].problem
        assert problem is not None
        assert "module 'absent'" in problem.reason


class TestFinders:
    @pytest.mark.parametrize("finder", FINDERS)
    @pytest.mark.parametrize("target", ["gpt", "gpt/__init__.py"])
    def test_table_is_read_and_code_does_not_run(
        self, tmp_path: Path, site: Site, look: Look, finder: str, target: str
    ) -> None:
        sources = project(tmp_path, "gpt/__init__.py", "gpt/handler.toml")
        site.install("gpt", entry_points("gpt.sub:P"), files={finder: FINDERS[finder] % str(sources / target)})
        assert title(look, site) == "found"

    @pytest.mark.parametrize(
        ("mapped", "target", "value"),
        [
            ("gpt", "gpt.py", "gpt:P"),
            ("gpt", "gpt", "gpt:P"),
            ("space.gpt", "gpt", "space.gpt:P"),
            ("space", "", "space.gpt:P"),
        ],
    )
    def test_modules_and_namespaces(
        self, tmp_path: Path, site: Site, look: Look, mapped: str, target: str, value: str
    ) -> None:
        sources = project(tmp_path, "gpt.py", "handler.toml")
        text = f"MAPPING = {{{mapped!r}: {str(sources / target)!r}}}\n"
        site.install("gpt", entry_points(value), files={"__editable___gpt_finder.py": text})
        assert title(look, site) == "found"

    @pytest.mark.parametrize(
        "text", ["MAPPING = {", "MAPPING = {'gpt': 5}", "MAPPING = evil()", "MAPPING = {[]: 1}", "\0"]
    )
    def test_invalid(self, site: Site, look: Look, text: str) -> None:
        site.install("gpt", entry_points("gpt:P"), files={"__editable___gpt_finder.py": text})
        assert look(site).entries["gpt"].problem is not None
