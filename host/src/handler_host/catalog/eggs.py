"""Warnings about eggs and egg links with handlers that no worker can import.

An egg on the path, or named in a ``.pth`` file, is a root like any other directory (``handler_host.catalog.roots``).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator

from handler_host.catalog.dist_info import read_bytes
from handler_host.catalog.entry_points import MARK


def check_eggs(paths: Iterable[str], searched: Collection[str]) -> Iterator[str]:
    """Yield a warning for each egg, zipped egg or egg link with handlers whose directory was not searched."""
    for path in paths:
        name = os.path.basename(path).rpartition(".")[0].partition("-")[0]
        if path.endswith(".egg-link"):
            if _link_has_handlers(path, searched):
                yield f"{path} is an egg link that is not on the path; install {name} with pip"
        elif os.path.isdir(path):
            if os.path.realpath(path) not in searched and _has_handlers(os.path.join(path, "EGG-INFO")):
                yield f"{path} is an egg that is not on the path; install {name} with pip"
        elif _zip_has_handlers(path):
            yield f"{path} is a zipped egg, which the host does not read; install {name} with pip"


def _link_has_handlers(path: str, searched: Collection[str]) -> bool:
    """Return whether the project in the first line of an egg link has handlers and was not searched."""
    try:
        project = read_bytes(path).decode(errors="surrogateescape").partition("\n")[0].strip()
        if os.path.realpath(project) in searched:
            return False
        names = os.listdir(project)
    except (OSError, ValueError):
        return False
    return any(_has_handlers(os.path.join(project, name)) for name in names if name.endswith(".egg-info"))


def _zip_has_handlers(path: str) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return MARK in archive.read("EGG-INFO/entry_points.txt")
    except (OSError, KeyError, ValueError, NotImplementedError, RuntimeError, EOFError, zipfile.BadZipFile):
        return False


def _has_handlers(directory: str) -> bool:
    try:
        return MARK in read_bytes(os.path.join(directory, "entry_points.txt"))
    except OSError:
        return False
