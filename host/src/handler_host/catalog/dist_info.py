"""Installed distributions with entry points of the host, read from their metadata on disk.

Each distribution is read on its own: broken metadata is a warning that names the file,
and the others are read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from handler_host._internal.versions import release
from handler_host.catalog.entry_points import MARK
from handler_host.catalog.roots import Root

_CHUNK = 16 * 1024
MAX_BYTES = 1024 * 1024
"""Longest metadata file that is read; a longer ``entry_points.txt`` is ignored with a warning."""


class Distribution(msgspec.Struct, frozen=True):
    """An installed distribution that mentions the host's entry-point groups."""

    name: str
    """Normalized: lowercase, with ``-`` between the words."""
    version: str
    root: Root
    directory: str
    """Path of its ``.dist-info`` or ``.egg-info``."""
    entry_points: bytes
    stamp: int
    """Modification time of its entry points in ns; differs between two installations of one version."""

    @property
    def entry_points_path(self) -> str:
        """The file with the entry points, for messages."""
        return os.path.join(self.directory, "entry_points.txt")


class Installed(msgspec.Struct, frozen=True):
    """The distributions of all roots."""

    plugins: list[Distribution]
    """Those that mention the host's groups, in the order of the roots, then by name."""
    count: int
    """Number of all distributions."""
    warnings: list[str]


def normalize_name(name: str) -> str:
    """Return a distribution's name as packaging tools compare it: ``my-plugin-x`` for ``My.Plugin_X``."""
    name = name.lower().replace("_", "-").replace(".", "-")
    while "--" in name:
        name = name.replace("--", "-")
    return name


def read_installed(roots: Iterable[Root]) -> Installed:
    """Read the distributions of all roots.

    As with Python's imports, the first root that has a distribution hides it in the others.
    """
    plugins: list[Distribution] = []
    warnings: list[str] = []
    seen: set[str] = set()
    for root in roots:
        for name, entries in sorted(_list(root, warnings).items()):
            if name in seen:
                continue
            seen.add(name)
            distribution = _read(root, name, entries, warnings)
            if distribution is not None:
                plugins.append(distribution)
    return Installed(plugins, len(seen), warnings)


def read_bytes(path: str) -> bytes:
    """Return a metadata file, at most one byte more than :data:`MAX_BYTES`; raises OSError."""
    return _contents(path)[0]


def _list(root: Root, warnings: list[str]) -> dict[str, list[str]]:
    """Return the metadata directories of a root by the normalised name of their distribution."""
    listed: dict[str, list[str]] = {}
    try:
        names = os.listdir(root.path)
    except OSError as error:
        warnings.append(f"{root.path} cannot be listed: {error.strerror}")
        return listed
    for entry in names:
        # pip leaves `~foo-1.0.dist-info` behind when an uninstall is interrupted.
        if entry.endswith(".dist-info") or (entry.endswith(".egg-info") and root.counts_in_tree):
            name = normalize_name(entry[:-10].partition("-")[0])
            if name[:1].isalnum():
                listed.setdefault(name, []).append(entry)
    return listed


def _read(root: Root, name: str, entries: list[str], warnings: list[str]) -> Distribution | None:
    """Read one distribution: of several metadata directories, the one of the newest version."""
    entry = entries[0] if len(entries) == 1 else max(entries, key=_rank)
    directory = f"{root.path}/{entry}"
    path = f"{directory}/entry_points.txt"
    try:
        data, stamp = _contents(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        warnings.append(f"{path} cannot be read: {error.strerror}")
        return None
    if MARK not in data:
        return None
    if len(data) > MAX_BYTES:
        warnings.append(f"{path} is longer than {MAX_BYTES} bytes and is ignored")
        return None
    if len(entries) > 1:
        others = ", ".join(sorted(set(entries) - {entry}))
        warnings.append(f"{root.path} has {name} more than once; {entry} is used, remove the others: {others}")
    return Distribution(name, _version(directory, entry), root, directory, data, stamp)


def _rank(entry: str) -> tuple[bool, tuple[int, ...], str]:
    return entry.endswith(".dist-info"), release(entry[:-10].partition("-")[2]), entry


def _version(directory: str, entry: str) -> str:
    version = entry[:-10].partition("-")[2].partition("-")[0]
    if version:
        return version
    try:
        head = read_bytes(f"{directory}/PKG-INFO").partition(b"\n\n")[0].decode(errors="replace")
    except OSError:
        return ""
    lines = (line.partition(":") for line in head.splitlines())
    return next((value.strip() for key, _, value in lines if key.lower() == "version"), "")


def _contents(path: str) -> tuple[bytes, int]:
    """Return a file's bytes and its modification time; never blocks, even if the file is a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        data = os.read(descriptor, _CHUNK)
        while len(data) % _CHUNK == 0 and data and len(data) <= MAX_BYTES:
            more = os.read(descriptor, _CHUNK)
            if not more:
                break
            data += more
        # Only plugins need the time, and few distributions are plugins.
        return data, os.fstat(descriptor).st_mtime_ns if MARK in data else 0
    finally:
        os.close(descriptor)
