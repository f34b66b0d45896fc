"""Environments of handlers' own: virtual environments, each for the handler that its directory is named after.

In one of them a plugin can have versions that the host's environment cannot: openai 3
beside litellm, which needs openai 2. Its worker is launched by its interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from handler_host.catalog.roots import Root
from handler_host.config import default_data_dir


class HandlerEnvironment(msgspec.Struct, frozen=True):
    """A virtual environment for one handler."""

    handler: str
    path: str
    python: str
    """Its interpreter."""
    root: Root
    """Its site directory."""


def default_directory(environ: Mapping[str, str]) -> Path:
    """Return where environments are kept unless ``catalog.environments`` says otherwise: with the user's data."""
    return (default_data_dir(environ) or Path("/var/lib/handler-host")) / "environments"


def find_environments(directory: Path) -> tuple[list[HandlerEnvironment], list[str]]:
    """Return the environments in a directory in the order of their names, and complaints about what is none."""
    found: list[HandlerEnvironment] = []
    complaints: list[str] = []
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
            complaints.append(f"{path} is no virtual environment: make it anew with `handler-host env create {name}`")
            continue
        root = Root(site, os.path.realpath(site), on_path=False, is_site=True, counts_in_tree=False)
        found.append(HandlerEnvironment(name, path, python, root))
    return found, complaints


def _site_directory(path: str) -> str | None:
    """Return the site directory of a virtual environment, or None if it has none."""
    try:
        versions = sorted(name for name in os.listdir(os.path.join(path, "lib")) if name.startswith("python3"))
    except OSError:
        return None
    sites = (os.path.join(path, "lib", version, "site-packages") for version in versions)
    return next((site for site in sites if os.path.isdir(site)), None)
