"""Installed distributions that have something for the host, read from their metadata on disk.

Each distribution is read on its own: what is broken in one is a complaint that
names the file, and harms no other.
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
"""Longest metadata file that is read. A larger ``entry_points.txt`` is left alone, with a complaint."""


class Distribution(msgspec.Struct, frozen=True):
    """An installed distribution that mentions the host's groups."""

    name: str
    """Normalised: lowercase, with ``-`` between its words."""
    version: str
    root: Root
    directory: str
    """Its ``.dist-info`` or ``.egg-info``."""
    entry_points: bytes
    stamp: int
    """When its entry points were written, in ns; another installation of the same version has another."""

    @property
    def entry_points_path(self) -> str:
        """The file that the entry points are of, for messages."""
        return os.path.join(self.directory, "entry_points.txt")


class Installed(msgspec.Struct, frozen=True):
    """What all roots have."""

    plugins: list[Distribution]
    """Those that mention the host's groups, in the order of the roots and then by name."""
    count: int
    """How many distributions were looked at."""
    complaints: list[str]


def normalised(name: str) -> str:
    """Return a distribution's name as packaging tools compare it: ``My.Plugin_X`` is ``my-plugin-x``."""
    name = name.lower().replace("_", "-").replace(".", "-")
    while "--" in name:
        name = name.replace("--", "-")
    return name


def read_installed(roots: Iterable[Root]) -> Installed:
    """Look at the distributions of all roots.

    As with Python's imports, the first root that has a distribution hides it in the others.
    """
    plugins: list[Distribution] = []
    complaints: list[str] = []
    seen: set[str] = set()
    for root in roots:
        for name, stems in sorted(_listed(root, complaints).items()):
            if name in seen:
                continue
            seen.add(name)
            found = _read(root, name, stems, complaints)
            if found is not None:
                plugins.append(found)
    return Installed(plugins, len(seen), complaints)


def read_bytes(path: str) -> bytes:
    """Return a metadata file, up to one byte more than :data:`MAX_BYTES`; raises OSError."""
    return _contents(path)[0]


def _listed(root: Root, complaints: list[str]) -> dict[str, list[str]]:
    """Return the metadata directories of a root by the normalised name of their distribution."""
    listed: dict[str, list[str]] = {}
    try:
        names = os.listdir(root.path)
    except OSError as error:
        complaints.append(f"{root.path} cannot be listed: {error.strerror}")
        return listed
    for entry in names:
        # `~foo-1.0.dist-info` is what pip leaves of an interrupted uninstall.
        if entry.endswith(".dist-info") or (entry.endswith(".egg-info") and root.counts_in_tree):
            name = normalised(entry[:-10].partition("-")[0])
            if name[:1].isalnum():
                listed.setdefault(name, []).append(entry)
    return listed


def _read(root: Root, name: str, entries: list[str], complaints: list[str]) -> Distribution | None:
    """Read one distribution; of several directories of the same name, the newest version's."""
    entry = entries[0] if len(entries) == 1 else max(entries, key=_rank)
    directory = f"{root.path}/{entry}"
    path = f"{directory}/entry_points.txt"
    try:
        data, stamp = _contents(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        complaints.append(f"{path} cannot be read: {error.strerror}")
        return None
    if MARK not in data:
        return None
    if len(data) > MAX_BYTES:
        complaints.append(f"{path} is longer than {MAX_BYTES} bytes and is not read")
        return None
    if len(entries) > 1:
        others = ", ".join(sorted(set(entries) - {entry}))
        complaints.append(f"{root.path} has {name} more than once; {entry} is taken, and should be alone: {others}")
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
    """Return a file's bytes and when it was written. Never waits, also if the file is a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        data = os.read(descriptor, _CHUNK)
        while len(data) % _CHUNK == 0 and data and len(data) <= MAX_BYTES:
            more = os.read(descriptor, _CHUNK)
            if not more:
                break
            data += more
        # The time matters for plugins only, of which there are few among many.
        return data, os.fstat(descriptor).st_mtime_ns if MARK in data else 0
    finally:
        os.close(descriptor)
