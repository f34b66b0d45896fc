"""Checks of a plugin's package: its wheel, its metadata, and what the catalog finds in it."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from email.parser import HeaderParser
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import NamedTuple

from handler_host.catalog.catalog import scan
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.dist_info import normalize_name
from handler_host.catalog.manifest import FILE_NAME, GROUP
from handler_host.catalog.secrets import secret_variable
from handler_host.cli.findings import Finding, Level
from handler_host.cli.project_copy import copy_project
from handler_host.config import CatalogConfig

NON_SOURCE_DIRECTORIES = {"build", "dist", "tests", "node_modules"}
"""Directories of a project whose manifests are not the plugin's own; hidden directories are excluded as well."""
DUMMY_SECRET = "made-up-for-handler-host-check"  # noqa: S105 - not a real one
MAX_LINES, MAX_LINE_LENGTH = 6, 250
"""Limits of what is shown of a build backend's output."""


class BuiltWheel(NamedTuple):
    """A plugin's wheel, and the directory into which it is unpacked for the checks."""

    wheel: Path
    site: Path


def build_wheel(path: Path, directory: Path, options: Sequence[str]) -> BuiltWheel | Finding:
    """Build the wheel of a project's copy and unpack it into a site directory; return it, or the problem."""
    pip, project = [sys.executable, "-m", "pip"], str(path.absolute())
    quiet = ["--disable-pip-version-check", "--quiet"]
    try:
        copy = str(copy_project(path, directory / "project"))
    except (OSError, shutil.Error) as error:
        return Finding(Level.PROBLEM, "wheel", f"the project cannot be copied for the build: {error}")
    command = [*pip, *quiet, "wheel", "--no-deps", *options, "--wheel-dir", str(directory / "wheel"), copy]
    # The copy shares the repository, whose index a backend's `git status` must not write.
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    wheels = list((directory / "wheel").glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        full_command = shlex.join([*pip, "wheel", "--no-deps", *options, "--wheel-dir", "dist", project])
        reason = build_error((process.stderr or process.stdout).replace(copy, project))
        return Finding(Level.PROBLEM, "wheel", f"the build failed: {reason}; for the full output: {full_command}")
    site = directory / "site"
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(site)
    return BuiltWheel(wheels[0], site)


def build_error(output: str) -> str:
    """Return the build backend's error in one line; pip's output has it inside its own text, after a traceback."""
    blocks = re.findall(r"\[\d+ lines? of output\]\n(.*?)\n[^\n]*\[end of output\]", output, re.DOTALL)
    lines = textwrap.dedent(blocks[-1] if blocks else output).strip("\n").splitlines()
    frames = [number for number, line in enumerate(lines) if line.startswith('  File "')]
    if frames:
        # The exception is the first line after the last frame that is not indented, as the frame's source is.
        lines = [*itertools.dropwhile(lambda line: line.startswith(" "), lines[frames[-1] :])]
    else:
        errors = [number for number, line in enumerate(lines) if line.lower().startswith("error:")]
        lines = lines[errors[0] :] if errors else lines[-MAX_LINES:]
    return " / ".join(line.strip()[:MAX_LINE_LENGTH] for line in [*filter(str.strip, lines)][:MAX_LINES])


def check_wheel(path: Path, built: BuiltWheel) -> Iterator[Finding]:
    """Yield what is wrong with the wheel's metadata and contents."""
    (info,) = built.site.glob("*.dist-info")
    metadata = HeaderParser().parsestr((info / "METADATA").read_text(encoding="utf-8", errors="replace"))
    if not any(name.lower().startswith("handler-host") for name in metadata.get_all("Requires-Dist") or ()):
        text = 'does not depend on handler-host; add dependencies = ["handler-host>=0.1,<1"]'
        yield Finding(Level.PROBLEM, "wheel", text)
    if not str(metadata.get_payload() or "").strip() and not metadata.get("Description"):
        text = 'has no description; write a README.md and add readme = "README.md"'
        yield Finding(Level.WARNING, "wheel", text)
    if metadata.get("Requires-Python") is None:
        text = 'does not state the required Python; add requires-python = ">=3.11"'
        yield Finding(Level.WARNING, "wheel", text)
    packed = {file.relative_to(built.site) for file in built.site.rglob(FILE_NAME)}
    for manifest in _manifests(path):
        if any(file.parts[-2:] == manifest.parts[-2:] for file in packed):
            continue
        text = f"{manifest.relative_to(path)} is missing; "
        if (manifest.parent / "__init__.py").exists():
            text += "configure your build backend to include it"
        else:
            text += "move it into the package, beside its __init__.py"
        yield Finding(Level.PROBLEM, "wheel", text)
    if not packed:
        text = f"has no {FILE_NAME}; without it, operations, settings and memory are unknown before the handler runs"
        yield Finding(Level.WARNING, "wheel", text)


def check_requirements(built: BuiltWheel) -> Iterator[Finding]:
    """Yield the wheel's requirements that this environment does not meet, and imports of packages not required."""
    from handler_host.cli.dependencies import requirement_flaws

    (info,) = built.site.glob("*.dist-info")
    name = PathDistribution(info).metadata["Name"]
    try:
        conflicts, imports = requirement_flaws(str(built.site), name)
    except ImportError:
        yield Finding(Level.NOTE, "wheel", "requirements not checked: pip install 'handler-host[tools]'")
        return
    for conflict in conflicts:
        text = (
            f"{conflict}: install the project with its dependencies (pip install .), in an environment of its own if "
            "another plugin here needs the other version"
        )
        yield Finding(Level.PROBLEM, "wheel", text)
    for text in imports:
        yield Finding(
            Level.PROBLEM, "wheel", f"{text}, which is not required; add it to dependencies in pyproject.toml"
        )


def check_names(entries: Sequence[CatalogEntry]) -> Iterator[Finding]:
    """Yield the handlers whose names other installed plugins have already."""
    installed = scan(CatalogConfig(), {}).entries
    for entry in entries:
        other = installed.get(entry.name)
        if other is not None and normalize_name(other.distribution) != normalize_name(entry.distribution):
            text = (
                f"{other.distribution} {other.version}, which is installed here, has a handler of this name too; a "
                f"host with both needs catalog.pins.{entry.name}, so choose another name"
            )
            yield Finding(Level.WARNING, entry.name, text)


def _manifests(path: Path) -> Iterator[Path]:
    for manifest in path.rglob(FILE_NAME):
        directories = manifest.relative_to(path).parts[:-1]
        if not any(name.startswith(".") or name in NON_SOURCE_DIRECTORIES for name in directories):
            yield manifest


def check_discovery(built: BuiltWheel) -> Generator[Finding, None, list[CatalogEntry]]:
    """Yield what the catalog finds in the wheel; return the handlers that can be activated."""
    settings = CatalogConfig(roots=(built.site,), include_sys_path=False, environments=built.site / "none")
    secrets = [name for entry in scan(settings, {}).entries.values() for name in entry.secrets]
    catalog = scan(settings, dict.fromkeys(secrets, DUMMY_SECRET))
    for warning in catalog.warnings:
        yield Finding(Level.WARNING, "discovery", warning)
    if not catalog.entries:
        text = f'no handler found; add [project.entry-points."{GROUP}"] with my_handler = "my_package:MyHandler"'
        yield Finding(Level.PROBLEM, "discovery", text)
    yield from _misplaced_manifests(built.site, catalog.entries.values())
    runnable: list[CatalogEntry] = []
    for entry in catalog.entries.values():
        if entry.problem is not None:
            yield Finding(Level.PROBLEM, entry.name, f"{entry.problem.state}: {entry.problem.reason}")
            continue
        runnable.append(entry)
        package = entry.entry_point.partition(":")[0].partition(".")[0]
        if package in sys.modules:
            yield Finding(Level.PROBLEM, entry.name, f"the search for the handler imported {package}")
        else:
            yield Finding(Level.OK, entry.name, f"found as {entry.entry_point}, nothing imported")
        for name in entry.secrets:
            variable = f"{secret_variable(entry.name, name)} (HANDLER_HOST_SECRET_, the handler, the secret)"
            yield Finding(Level.NOTE, entry.name, f"reads its secret from {name}, or for it alone from {variable}")
    return runnable


def _misplaced_manifests(site: Path, entries: Iterable[CatalogEntry]) -> Iterator[Finding]:
    """Yield the manifests of the wheel that the host does not read, each with its right place."""
    read = {entry.manifest_path for entry in entries}
    packages = sorted({entry.entry_point.partition(":")[0].partition(".")[0] for entry in entries})
    for manifest in sorted(site.rglob(FILE_NAME)):
        if str(manifest) not in read:
            right = " or ".join(f"{package}/{FILE_NAME}" for package in packages)
            text = f"the host does not read {manifest.relative_to(site)}; move it to {right}, beside __init__.py"
            yield Finding(Level.PROBLEM, "wheel", text)
