"""The handlers' own virtual environments; the name of each directory is the handler's name.

There a plugin can have versions that conflict with the host's environment: openai 3 beside
litellm, which needs openai 2. The environment's interpreter launches the worker.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from handler_host.catalog.roots import Root
from handler_host.config import default_data_dir


class HandlerEnvironment(msgspec.Struct, frozen=True):
    """The virtual environment of one handler."""

    handler: str
    path: str
    python: str
    """Its interpreter."""
    root: Root
    """Its site directory."""


def default_directory(environ: Mapping[str, str]) -> Path:
    """Return the default of ``catalog.environments``: a directory in the user's data directory."""
    return (default_data_dir(environ) or Path("/var/lib/handler-host")) / "environments"


def find_environments(directory: Path) -> tuple[list[HandlerEnvironment], list[str]]:
    """Return the environments in a directory, sorted by name, and warnings about broken ones."""
    environments: list[HandlerEnvironment] = []
    warnings: list[str] = []
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        return [], [f"{directory} cannot be listed: {error.strerror}"]
    for name in names:
        path = os.path.join(directory, name)
        python = os.path.join(path, "bin", "python")
        site = _site_directory(path)
        if name.startswith(".") or not os.path.isdir(path):
            continue
        if site is None or not os.access(python, os.X_OK):
            warnings.append(f"{path} is not a virtual environment; recreate it with `handler-host env create {name}`")
            continue
        root = Root(site, os.path.realpath(site), on_path=False, is_site=True, counts_in_tree=False)
        environments.append(HandlerEnvironment(name, path, python, root))
    return environments, warnings


def _site_directory(path: str) -> str | None:
    """Return the site directory of a virtual environment; None without one."""
    try:
        versions = sorted(name for name in os.listdir(os.path.join(path, "lib")) if name.startswith("python3"))
    except OSError:
        return None
    sites = (os.path.join(path, "lib", version, "site-packages") for version in versions)
    return next((site for site in sites if os.path.isdir(site)), None)
