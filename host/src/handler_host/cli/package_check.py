"""Whether a plugin's package is right: its wheel, its metadata, and what the catalog makes of it."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Generator, Iterator, Sequence
from email.parser import HeaderParser
from pathlib import Path
from typing import NamedTuple

from handler_host.catalog.catalog import CatalogEntry, scan, secret_variable
from handler_host.catalog.manifest import FILE_NAME, GROUP
from handler_host.cli.report_card import Mark, Row
from handler_host.config import CatalogConfig

NOT_SOURCES = {"build", "dist", "tests", "node_modules"}
"""Directories of a project in which a manifest is none of the plugin's own; hidden ones are left out as well."""
A_SECRET = "made-up-for-handler-host-check"  # noqa: S105 - that is what it says

MOST_LINES, MOST_CHARACTERS = 6, 250
"""What is shown of what a build backend said, and of each of its lines."""


class Built(NamedTuple):
    """A plugin's wheel, and where it is installed for the checks."""

    wheel: Path
    site: Path


def build(path: Path, directory: Path, options: Sequence[str]) -> Built | Row:
    """Build the wheel of a project and unpack it into a site directory of its own; return it, or the problem."""
    pip, project = [sys.executable, "-m", "pip"], str(path.absolute())
    quiet = ["--disable-pip-version-check", "--quiet"]
    command = [*pip, *quiet, "wheel", "--no-deps", *options, "--wheel-dir", str(directory / "wheel"), project]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list((directory / "wheel").glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        again = shlex.join([*pip, "wheel", "--no-deps", *options, "--wheel-dir", "dist", project])
        said = why_not_built(done.stderr or done.stdout)
        return Row(Mark.PROBLEM, "wheel", f"cannot be built: {said}; to see all of it: {again}")
    site = directory / "site"
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(site)
    return Built(wheels[0], site)


def why_not_built(output: str) -> str:
    """Return what the build backend said, in a line: pip shows it within its own words, after a traceback."""
    blocks = re.findall(r"\[\d+ lines? of output\]\n(.*?)\n[^\n]*\[end of output\]", output, re.DOTALL)
    lines = textwrap.dedent(blocks[-1] if blocks else output).strip("\n").splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    if frames:
        # The exception is the first line after the last frame that is not indented as its source is.
        lines = [*itertools.dropwhile(lambda line: line.startswith(" "), lines[frames[-1] :])]
    else:
        errors = [number for number, line in enumerate(lines) if line.lower().startswith("error:")]
        lines = lines[errors[0] :] if errors else lines[-MOST_LINES:]
    return " / ".join(line.strip()[:MOST_CHARACTERS] for line in [*filter(str.strip, lines)][:MOST_LINES])


def of_wheel(path: Path, built: Built) -> Iterator[Row]:
    """Yield what is said of the wheel's contents: metadata, manifest, markers."""
    (info,) = built.site.glob("*.dist-info")
    metadata = HeaderParser().parsestr((info / "METADATA").read_text(encoding="utf-8", errors="replace"))
    if not any(name.lower().startswith("handler-host") for name in metadata.get_all("Requires-Dist") or ()):
        yield Row(Mark.PROBLEM, "wheel", 'does not depend on handler-host: add dependencies = ["handler-host>=0.1,<1"]')
    if not str(metadata.get_payload() or "").strip() and not metadata.get("Description"):
        yield Row(Mark.WARNING, "wheel", 'has no description: write a README.md, and add readme = "README.md"')
    if metadata.get("Requires-Python") is None:
        yield Row(Mark.WARNING, "wheel", 'does not say which Python it needs: add requires-python = ">=3.11"')
    inside = {file.relative_to(built.site) for file in built.site.rglob(FILE_NAME)}
    for manifest in _manifests(path):
        if not any(file.parts[-2:] == manifest.parts[-2:] for file in inside):
            place = manifest.relative_to(path)
            yield Row(Mark.PROBLEM, "wheel", f"{place} is not in it: let your build backend take it as package data")
    if not inside:
        text = f"has no {FILE_NAME}: without one its operations, settings and memory are not known before it runs"
        yield Row(Mark.WARNING, "wheel", text)


def _manifests(path: Path) -> Iterator[Path]:
    for manifest in path.rglob(FILE_NAME):
        folders = manifest.relative_to(path).parts[:-1]
        if not any(folder.startswith(".") or folder in NOT_SOURCES for folder in folders):
            yield manifest


def runnable(built: Built) -> Generator[Row, None, list[CatalogEntry]]:
    """Yield what the catalog says of the wheel's handlers; return those that can be activated."""
    settings = CatalogConfig(roots=(built.site,), include_sys_path=False, environments=built.site / "none")
    declared = [name for entry in scan(settings, {}).entries.values() for name in entry.secrets]
    catalog = scan(settings, dict.fromkeys(declared, A_SECRET))
    for warning in catalog.warnings:
        yield Row(Mark.WARNING, "discovery", warning)
    if not catalog.entries:
        text = f'no handler is found: add [project.entry-points."{GROUP}"] with my_handler = "my_package:MyHandler"'
        yield Row(Mark.PROBLEM, "discovery", text)
    found: list[CatalogEntry] = []
    for entry in catalog.entries.values():
        if entry.problem is not None:
            yield Row(Mark.PROBLEM, entry.name, f"{entry.problem.state}: {entry.problem.reason}")
            continue
        found.append(entry)
        package = entry.entry_point.partition(":")[0].partition(".")[0]
        if package in sys.modules:
            yield Row(Mark.PROBLEM, entry.name, f"{package} was imported while it was only looked for")
        else:
            yield Row(Mark.OK, entry.name, f"is found as {entry.entry_point}, with nothing imported")
        for name in entry.secrets:
            own = f"{secret_variable(entry.name, name)} (HANDLER_HOST_SECRET_, the handler, the secret)"
            yield Row(Mark.NOTE, entry.name, f"its secret is read from {name}, or for it alone from {own}")
    return found
