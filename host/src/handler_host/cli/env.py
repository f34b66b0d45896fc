"""``handler-host env``: virtual environments for single handlers, where their dependencies fit nobody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from handler_host._internal.suggestions import did_you_mean
from handler_host.catalog.catalog import CatalogEntry, scan
from handler_host.catalog.environments import HandlerEnvironment, default_directory, find_environments
from handler_host.cli.failure import OK, USAGE, Failure
from handler_host.cli.flags import loaded
from handler_host.cli.render import echo, note, put_table
from handler_host.config import Config
from handler_host.plugin.errors import ConfigError

HOST = "handler-host"


def env(arguments: SimpleNamespace) -> int:
    """Create, list or remove."""
    config = loaded(arguments).config
    directory = config.catalog.environments or default_directory(os.environ)
    if arguments.action == "list":
        return _list(directory)
    if arguments.handler is None:
        raise Failure(f"which handler's? handler-host env {arguments.action} HANDLER", USAGE)
    if arguments.action == "remove":
        return _remove(directory, arguments.handler)
    return _create(config, directory / arguments.handler, arguments)


def _list(directory: Path) -> int:
    found, complaints = find_environments(directory)
    rows = [(one.handler, *_contents(one), one.path) for one in found]
    if rows:
        put_table(("HANDLER", "PYTHON", "PLUGIN", "PATH"), rows, left=("HANDLER", "PYTHON", "PLUGIN", "PATH"))
    else:
        echo(f"no handler has an environment of its own in {directory}")
    for complaint in complaints:
        note(f"warning: {complaint}")
    return OK


def _contents(environment: HandlerEnvironment) -> tuple[str, str]:
    """Return the Python version of an environment, and the plugin in it."""
    version = Path(environment.root.path).parent.name.removeprefix("python")
    for found in Distribution.discover(path=[environment.root.path]):
        if any(point.name == environment.handler for point in found.entry_points):
            return version, f"{found.name} {found.version}"
    return version, "none"


def _remove(directory: Path, handler: str) -> int:
    found, _ = find_environments(directory)
    known = {one.handler: one for one in found}
    if handler not in known:
        raise Failure(f"{handler!r} has no environment of its own in {directory}{did_you_mean(handler, known)}")
    shutil.rmtree(known[handler].path)
    echo(f"{handler} runs in the host's environment again, if it is installed there; a running host: {_RESCAN}")
    return OK


def _create(config: Config, path: Path, arguments: SimpleNamespace) -> int:
    handler = arguments.handler
    wanted = arguments.package or _as_installed(config, handler)
    if path.exists():
        if not arguments.replace:
            raise Failure(f"{path} is there already: add --replace to make it anew")
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    installer = _Installer.choose(path, arguments.python or sys.executable)
    note(f"making {path} with {installer.name}")
    try:
        installer.make()
        for file in arguments.requirements or ():
            installer.install(["-r", file])
        installer.install([*wanted, *_source(distribution(HOST)), *(arguments.installer or ())])
        _check(config, handler)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    echo(f"{handler} has an environment of its own: {path}")
    echo(f"its worker shares no pages with the others (see docs/how-to/environments.md); a running host: {_RESCAN}")
    return OK


_RESCAN = "`handler-host rescan`"


def _check(config: Config, handler: str) -> None:
    """Raise unless the catalog has the handler now, and in its own environment."""
    entry = _entries(config).get(handler)
    if entry is None or entry.python is None:
        raise Failure(f"what was installed has no handler {handler!r}: name the plugin that does (env create --help)")
    if entry.problem is not None and entry.problem.state in ("invalid", "incompatible"):
        raise Failure(f"{handler} is {entry.problem.state} there: {entry.problem.reason}")


def _entries(config: Config) -> dict[str, CatalogEntry]:
    return dict(scan(config.catalog, os.environ).entries)


def _as_installed(config: Config, handler: str) -> list[str]:
    """Return what to ask an installer for to have the plugin that is installed now."""
    entries = _entries(config)
    entry = entries.get(handler)
    if entry is None:
        raise ConfigError(
            f"there is no handler {handler!r}{did_you_mean(handler, entries)}. For one that is not installed yet "
            f"name its package: handler-host env create {handler} PACKAGE"
        )
    for found in PathDistribution.discover(name=entry.distribution, path=[entry.root]):
        return _source(found)
    raise ConfigError(f"{entry.distribution} is not found in {entry.root}: name its package, with its version")


def _source(found: Distribution) -> list[str]:
    """Return how a distribution was installed, as an installer's arguments (PEP 610)."""
    text = found.read_text("direct_url.json")
    told: Any = msgspec.json.decode(text) if text else {}
    url = told.get("url", "")
    if url.startswith("file://"):
        path = os.path.join(unquote(urlsplit(url).path), told.get("subdirectory", ""))
        return ["-e", path] if told.get("dir_info", {}).get("editable") else [path]
    return [f"{found.name} @ {url}"] if url else [f"{found.name}=={found.version}"]


class _Installer:
    """What makes a virtual environment and installs into it: uv where it is there, else venv and pip."""

    def __init__(self, name: str, make: Sequence[str], install: Sequence[str]) -> None:
        self.name = name
        self._make = make
        self._install = install

    @classmethod
    def choose(cls, path: Path, base: str) -> _Installer:
        python = str(path / "bin" / "python")
        uv = shutil.which("uv")
        if uv is not None:
            install = [uv, "pip", "install", "--quiet", "--python", python, "--compile-bytecode"]
            return cls("uv", [uv, "venv", "--quiet", "--python", base, str(path)], install)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--compile"]
        return cls("venv and pip", [base, "-m", "venv", str(path)], install)

    def make(self) -> None:
        self._run(self._make)

    def install(self, what: Sequence[str]) -> None:
        self._run([*self._install, *what])

    def _run(self, command: Sequence[str]) -> None:
        """Run a command; its own words are what the user needs when it fails."""
        # Bytecode belongs there: without it every import takes several times as long.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        if subprocess.run(command, env=environment, check=False).returncode:
            raise Failure(f"{self.name} failed (see above), and the environment was removed: {' '.join(command)}")
