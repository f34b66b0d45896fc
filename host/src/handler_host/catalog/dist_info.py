"""Installed distributions with entry points of the host, read from their metadata on disk.

Each distribution is read on its own: broken metadata is a warning that names the file,
and the others are read.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from handler_host._internal.versions import VersionKey, version_key
from handler_host.catalog.entry_points import MARK
from handler_host.catalog.roots import Root, named_directories

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
    """Path of its ``.dist-info``, ``.egg-info`` or ``EGG-INFO``."""
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
    directories: set[str]
    """The directories that were searched, without symbolic links."""
    eggs: list[str]
    """Paths of eggs and egg links in these directories."""
    warnings: list[str]


def normalize_name(name: str) -> str:
    """Return a distribution's name as packaging tools compare it: ``my-plugin-x`` for ``My.Plugin_X``."""
    name = name.lower().replace("_", "-").replace(".", "-")
    while "--" in name:
        name = name.replace("--", "-")
    return name


def read_installed(roots: Iterable[Root]) -> Installed:
    """Read the distributions of all roots, and of the directories that their ``.pth`` files name.

    As with Python's imports, the first root that has a distribution hides it in the others.
    """
    plugins: list[Distribution] = []
    eggs: list[str] = []
    warnings: list[str] = []
    seen: set[str] = set()
    pending = deque(roots)
    known = {root.real for root in pending}
    while pending:
        root = pending.popleft()
        listing = _list(root, warnings)
        for name, entries in sorted(listing.directories.items()):
            if name in seen:
                continue
            seen.add(name)
            distribution = _read(root, name, entries, warnings)
            if distribution is not None:
                plugins.append(distribution)
        eggs += listing.eggs
        if root.is_site and listing.path_files:
            named = list(named_directories(root, sorted(listing.path_files), known))
            eggs += [path for path in named if isinstance(path, str)]
            new = {directory.real: directory for directory in named if isinstance(directory, Root)}
            known |= new.keys()
            # A worker has the directories of the host's own sites last, those of an added site beside it.
            if root.on_path:
                pending.extend(new.values())
            else:
                pending.extendleft(reversed(new.values()))
    return Installed(plugins, len(seen), known, eggs, warnings)


def read_bytes(path: str) -> bytes:
    """Return a metadata file, at most one byte more than :data:`MAX_BYTES`; raises OSError."""
    return _contents(path)[0]


class _Listing(NamedTuple):
    """The entries of a root that matter to the scan."""

    directories: dict[str, list[str]]
    """Metadata directories by the normalized name of their distribution."""
    path_files: list[str]
    eggs: list[str]
    """Paths of eggs and egg links."""


def _list(root: Root, warnings: list[str]) -> _Listing:
    listing = _Listing({}, [], [])
    try:
        names = os.listdir(root.path)
    except OSError as error:
        warnings.append(f"{root.path} cannot be listed: {error.strerror}")
        return listing
    for entry in names:
        # Inlined for the most frequent kind: a call for each costs a tenth of a scan (make bench-discovery).
        if entry.endswith(".dist-info"):
            stem: str | None = entry[:-10]
        elif entry.endswith((".egg-info", "EGG-INFO")):
            stem = _stem(root, entry)
        else:
            if entry.endswith(".pth"):
                listing.path_files.append(entry)
            elif entry.endswith((".egg", ".egg-link")):
                listing.eggs.append(f"{root.path}/{entry}")
            continue
        name = normalize_name(stem.partition("-")[0]) if stem is not None else ""
        # pip leaves `~foo-1.0.dist-info` behind when an uninstall is interrupted.
        if name[:1].isalnum():
            listing.directories.setdefault(name, []).append(entry)
    return listing


def _stem(root: Root, entry: str) -> str | None:
    """Return ``NAME-VERSION`` of a metadata directory (``NAME`` in a source tree); None for another entry."""
    if entry.endswith(".dist-info"):
        return entry.removesuffix(".dist-info")
    if not root.counts_in_tree:
        return None
    if entry.endswith(".egg-info"):
        return entry.removesuffix(".egg-info")
    if entry == "EGG-INFO" and root.path.endswith(".egg"):
        return os.path.basename(root.path).removesuffix(".egg")
    return None


def _read(root: Root, name: str, entries: list[str], warnings: list[str]) -> Distribution | None:
    """Read one distribution: of several metadata directories, the one of the newest version."""
    entry = entries[0] if len(entries) == 1 else _newest(root, entries)
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
    return Distribution(name, _version(root, entry), root, directory, data, stamp)


def _newest(root: Root, entries: list[str]) -> str:
    return max(entries, key=lambda entry: _rank(root, entry))


def _rank(root: Root, entry: str) -> tuple[bool, VersionKey, str]:
    return entry.endswith(".dist-info"), version_key(_version(root, entry)), entry


def _version(root: Root, entry: str) -> str:
    """Return the version in a directory's name, or in its metadata where the name has none or an escaped one."""
    version = (_stem(root, entry) or "").partition("-")[2].partition("-")[0]
    if version and "_" not in version:
        return version
    file = "METADATA" if entry.endswith(".dist-info") else "PKG-INFO"
    try:
        head = read_bytes(f"{root.path}/{entry}/{file}").decode(errors="replace")
    except OSError:
        return version
    for line in head.splitlines():
        key, colon, value = line.partition(":")
        if not colon:
            break
        if key.lower() == "version":
            return value.strip()
    return version


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
