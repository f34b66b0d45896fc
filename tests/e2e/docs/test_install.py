"""The commands of Install work as the pages show them, and each project that a page shows can be built."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.e2e.docs.reading import ROOT, Reader, blocks, steps

README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("plugins/*/README.md"))]
PLUGINS = sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))
PROJECTS = [(page, block) for page in PAGES for block in blocks(page.read_text(), "toml") if "\n[project]\n" in block]
INSTALL = README.read_text().partition("\n## Install\n")[2].partition("\n## ")[0]


@pytest.mark.slow
def test_the_readmes_install_gives_what_a_new_plugin_needs(reader: Reader) -> None:
    (reader.directory / "handler-host").symlink_to(ROOT)
    (create, install, version), _ = zip(*steps(INSTALL), strict=True)
    assert create == "python3 -m venv env && . env/bin/activate"  # the reader's environment
    reader.run(install)
    assert reader.run(version).startswith("handler-host 0.1.0")
    python = reader.run("python -c 'import handler_host, gpt_a; print(handler_host.__file__, gpt_a.__file__)'")
    assert all(file.startswith(str(reader.directory / "venv")) for file in python.split())
    (words,) = re.findall(r"^  (cd .*)$", reader.run("handler-host new acme_gpt --kind chat"), re.MULTILINE)
    reader.run(words)


def test_the_index_has_the_install_section_of_the_readme() -> None:
    assert (ROOT / "docs/index.md").read_text().partition("\n## Install\n")[2].strip() == INSTALL.strip()


def test_no_page_installs_the_host_from_an_index() -> None:
    wrong = re.compile(r"pip install[^\n]*[ '\"]handler-host(?!\[)")
    assert [f"{page}: {found[0]}" for page in PAGES for found in wrong.finditer(page.read_text())] == []


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_plugins_readme_says_how_to_install_it_from_a_clone(plugin: str) -> None:
    text = (ROOT / "plugins" / plugin / "README.md").read_text()
    commands = [command for command, _ in steps(text)]
    assert commands[0] == f"pip install ./handler-host ./handler-host/plugins/{plugin}"
    assert "[from a clone](../../README.md#install)" in text


@pytest.mark.slow
@pytest.mark.parametrize(("page", "project"), PROJECTS, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_a_project_that_a_page_shows_can_be_built(page: Path, project: str, tmp_path: Path) -> None:
    ((_, place),) = tomllib.loads(project)["project"]["entry-points"]["handler_host.v1"].items()
    module, attribute = place.split(":")
    (source,) = (block for block in blocks(page.read_text(), "python") if f"class {attribute}" in block)
    (tmp_path / "pyproject.toml").write_text(project)
    (tmp_path / f"{module}.py").write_text(source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--wheel-dir", "dist"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "."]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("dist/*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert f"{module}.py" in archive.namelist()


def test_the_readme_and_the_tutorial_show_a_project() -> None:
    assert {page.name for page, _ in PROJECTS} == {"README.md", "first-plugin.md"}
