"""Create, list and remove the virtual environments of single handlers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from handler_host._internal.suggestions import did_you_mean
from handler_host.catalog.catalog import scan_config
from handler_host.catalog.catalog_entry import CatalogEntry
from handler_host.catalog.environments import HandlerEnvironment, default_directory, find_environments
from handler_host.cli.failure import OK, Failure
from handler_host.cli.progress import show_progress
from handler_host.cli.render import echo, echo_table, note
from handler_host.config import Config
from handler_host.plugin.errors import ConfigError

HOST = "handler-host"


def directory_of(config: Config) -> Path:
    """Return the directory that has the environments."""
    return config.catalog.environments or default_directory(os.environ)


def list_environments(directory: Path) -> int:
    """Print the environments with their Python version and plugin; return the exit status."""
    environments, complaints = find_environments(directory)
    rows = [(environment.handler, *_contents(environment), environment.path) for environment in environments]
    if rows:
        echo_table(("HANDLER", "PYTHON", "PLUGIN", "PATH"), rows, left=("HANDLER", "PYTHON", "PLUGIN", "PATH"))
    else:
        echo(f"no handler has an environment of its own in {directory}")
    for complaint in complaints:
        note(f"warning: {complaint}")
    return OK


def _contents(environment: HandlerEnvironment) -> tuple[str, str]:
    """Return the Python version of an environment, and the plugin in it."""
    version = Path(environment.root.path).parent.name.removeprefix("python")
    for plugin in Distribution.discover(path=[environment.root.path]):
        if any(point.name == environment.handler for point in plugin.entry_points):
            return version, f"{plugin.name} {plugin.version}"
    return version, "none"


def remove_environment(directory: Path, handler: str) -> int:
    """Delete a handler's environment; return the exit status."""
    environments = {environment.handler: environment for environment in find_environments(directory)[0]}
    if handler not in environments:
        hint = did_you_mean(handler, environments)
        raise Failure(f"{handler!r} has no environment of its own in {directory}{hint}")
    shutil.rmtree(environments[handler].path)
    echo(f"{handler}: environment removed; it runs in the host's environment again, if it is installed there")
    echo(_RESCAN_HINT)
    return OK


def create_environment(
    config: Config,
    handler: str,
    *,
    packages: Sequence[str] = (),
    requirements: Sequence[str] = (),
    installer_options: Sequence[str] = (),
    python: str | None = None,
    replace: bool = False,
) -> int:
    """Create a handler's environment and install its plugin into it; return the exit status.

    Without ``packages`` the plugin is installed as it is installed now. ``requirements`` are
    files that are installed first. A failure leaves no environment behind.
    """
    path = directory_of(config) / handler
    sources = list(packages) or _installed_source(config, handler)
    if path.exists():
        if not replace:
            raise Failure(f"{path} exists already; use --replace to create it again")
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    installer = _Installer.choose(path, python or sys.executable)
    note(f"creating {path} with {installer.name}")
    try:
        installer.create()
        for file in requirements:
            installer.install(["-r", file])
        installer.install([*sources, *_source(distribution(HOST)), *installer_options])
        _check_result(config, handler)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    echo(f"{handler}: environment created in {path}")
    echo("its worker shares no memory pages with other workers (docs/how-to/environments.md)")
    echo(_RESCAN_HINT)
    return OK


_RESCAN_HINT = "a running host uses the change after `handler-host rescan`"


def _check_result(config: Config, handler: str) -> None:
    """Raise unless the catalog now finds the handler in its own environment."""
    entry = _entries(config).get(handler)
    if entry is None or entry.python is None:
        raise Failure(
            f"the installed packages have no handler {handler!r}; name the package of its plugin "
            f"(handler-host env create --help)"
        )
    if entry.problem is not None and entry.problem.state in ("invalid", "incompatible"):
        raise Failure(f"{handler} is {entry.problem.state} in its environment: {entry.problem.reason}")


def _entries(config: Config) -> dict[str, CatalogEntry]:
    return dict(scan_config(config, os.environ).entries)


def _installed_source(config: Config, handler: str) -> list[str]:
    """Return the installer arguments for the plugin as it is installed now."""
    entries = _entries(config)
    entry = entries.get(handler)
    if entry is None:
        raise ConfigError(
            f"unknown handler {handler!r}{did_you_mean(handler, entries)}; if it is not installed yet, name its "
            f"package: handler-host env create {handler} PACKAGE"
        )
    for installed in PathDistribution.discover(name=entry.distribution, path=[entry.root]):
        return _source(installed)
    raise ConfigError(f"{entry.distribution} is not found in {entry.root}; name its package with its version")


def _source(installed: Distribution) -> list[str]:
    """Return the installer arguments for a distribution: its directory, URL or version (PEP 610)."""
    text = installed.read_text("direct_url.json")
    origin: Any = msgspec.json.decode(text) if text else {}
    url = origin.get("url", "")
    if url.startswith("file://"):
        path = os.path.join(unquote(urlsplit(url).path), origin.get("subdirectory", ""))
        return ["-e", path] if origin.get("dir_info", {}).get("editable") else [path]
    return [f"{installed.name} @ {url}"] if url else [f"{installed.name}=={installed.version}"]


class _Installer:
    """Creates an environment and installs into it: with uv if it is on the path, otherwise with venv and pip."""

    def __init__(self, name: str, create_command: Sequence[str], install_command: Sequence[str]) -> None:
        self.name = name
        self._create_command = create_command
        self._install_command = install_command

    @classmethod
    def choose(cls, path: Path, base: str) -> _Installer:
        python = str(path / "bin" / "python")
        uv = shutil.which("uv")
        if uv is not None:
            install = [uv, "pip", "install", "--quiet", "--python", python, "--compile-bytecode"]
            return cls("uv", [uv, "venv", "--quiet", "--python", base, str(path)], install)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--compile"]
        return cls("venv and pip", [base, "-m", "venv", str(path)], install)

    def create(self) -> None:
        self._run("creating the environment", self._create_command)

    def install(self, arguments: Sequence[str]) -> None:
        self._run(f"installing {' '.join(arguments)}", [*self._install_command, *arguments])

    def _run(self, step: str, command: Sequence[str]) -> None:
        # Without bytecode every import takes several times as long, so the installer must write it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        with show_progress(step):
            status = subprocess.run(command, env=environment, check=False).returncode
        if status:
            raise Failure(f"{self.name} failed (output above); the environment was removed: {' '.join(command)}")
