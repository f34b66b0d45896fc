"""Rewritten modules on disk: one directory per package, one file per module, read only if nobody else could write it.

Code objects are unmarshalled and then executed, so that an entry is trusted as much as
a module of the package itself: the directory and each file must belong to this user
or to root, and no one else may write to them.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import shutil
import stat
import struct
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from handler_host.lean import CACHE_VARIABLE

REWRITER = 4
"""Version of what :mod:`handler_host.lean.rewrite` produces; raise it with each change of the output."""

_MAGIC = b"lean\x01"
_HEADER = struct.Struct("<5s q q 16s 16s")
_INDEX = "index"
_ORIGIN = "origin"
"""File that names the path of the package from which a directory was compiled."""


class CacheError(Exception):
    """A directory of the cache cannot be used; the message says why."""


class NotCompiled(CacheError):
    """A package has no directory in the cache."""

    def __init__(self) -> None:
        super().__init__("not compiled; run 'python -m handler_host.lean compile'")


class Entry(NamedTuple):
    """One rewritten module, as it is stored: everything in it can be marshalled."""

    code: Any
    table: dict[str, tuple[str, str, str | None, int]]
    """The lazy names: how to import each (kind, module, attribute) and the line of its statement."""
    builtins: tuple[str, ...]
    """Builtins that the module uses and that are copied into its namespace, for speed."""
    shadowed: tuple[str, ...]
    """Lazy names that are also names of submodules; importing the submodule must not win."""
    hidden: tuple[str, ...]
    """Submodules that the package deletes from its namespace after their import."""
    owner: str
    """What the package writes into ``__module__`` of its exports, or ``""``."""
    exported: tuple[str, ...]
    """The lazy names among those exports."""
    claims: dict[str, tuple[str, ...]]
    """Where those are defined: names by module."""


def default_directories() -> list[Path]:
    """Return where compiled code may be, the preferred directory first.

    ``$LEAN_CACHE`` alone if it is set; else the virtual environment's ``var/lean``, then the user's cache.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return [Path(named)]
    directories = [Path(sys.prefix, "var", "lean")] if sys.prefix != sys.base_prefix else []
    user_cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(user_cache):
        directories.append(Path(user_cache, "lean"))
    return directories


def directories_of(cache: str | None, fallback: str | None) -> list[Path]:
    """Return the directories of a program that names its own, or the default ones; ``fallback`` is the last one."""
    directories = [Path(cache)] if cache is not None else default_directories()
    return [*directories, Path(fallback)] if fallback is not None else directories


def as_directories(cache: Path | Iterable[Path] | None) -> list[Path]:
    """Return one directory, several, or the default ones as a list."""
    if cache is None:
        return default_directories()
    return [cache] if isinstance(cache, Path) else list(cache)


def package_directory(root: Path, package: str, version: str, eager: Collection[str]) -> Path:
    """Return the directory of one package in one version: of this interpreter, this rewriter, and these eager modules.

    ``version`` may be ``""`` if the package never changes. A rewritten module depends on other modules of the
    package, so that the hash of its own source does not tell one version from another.
    """
    python = f"{sys.implementation.cache_tag}-{sys.hexversion:x}-O{sys.flags.optimize}-r{REWRITER}"
    own = sorted(name for name in eager if name == package or name.startswith(f"{package}."))
    suffix = f"-{_digest(','.join(own).encode()).hex()[:8]}" if own else ""
    return root / python / f"{package}{f'@{version}' if version else ''}{suffix}"


class PackageCache:
    """The entries of one package in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def open(self) -> dict[str, tuple[str, ...]]:
        """Return the index: the submodules that each package makes reachable. Raises :class:`CacheError`."""
        _check_owner(self._directory)
        data = _read(self._directory / _INDEX)
        if data is None or data[: len(_MAGIC)] != _MAGIC:
            raise CacheError(f"{self._directory} has no compiled index; compile the package again")
        body = memoryview(data)[len(_MAGIC) :]
        if _digest(body[16:]) != body[:16]:
            raise CacheError(f"the index in {self._directory} is damaged; compile the package again")
        index: dict[str, tuple[str, ...]] = marshal.loads(body[16:])  # noqa: S302 - no other user could write it
        return index

    def create(self) -> None:
        """Make the directory, for this user only; raises :class:`CacheError`."""
        try:
            # Readable for all: an image is built by root, and runs as another user.
            self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"{self._directory} cannot be made: {error.strerror}") from error
        _check_owner(self._directory)
        if not os.access(self._directory, os.W_OK):
            raise CacheError(f"{self._directory} is not writable")
        # An index of an earlier run must not vouch for a set of entries that is half new.
        (self._directory / _INDEX).unlink(missing_ok=True)

    def remove_replaced(self, package: str, origin: Path) -> None:
        """Remove what was compiled from other versions of the package that were installed in the same place."""
        place = str(origin).encode()
        for sibling in self._directory.parent.glob(f"{package}@*"):
            is_other_version = sibling.name.split("-")[0] != self._directory.name.split("-")[0]
            if is_other_version and _read(sibling / _ORIGIN) == place:
                shutil.rmtree(sibling, ignore_errors=True)
        _write(self._directory / _ORIGIN, place)

    def finish(self, index: Mapping[str, tuple[str, ...]]) -> None:
        """Write the index, which makes the entries valid."""
        body = marshal.dumps(dict(index))
        _write(self._directory / _INDEX, _MAGIC + _digest(body) + body)

    def load(self, name: str, path: str) -> Entry | None:
        """Return the entry of a module whose source is at ``path``, or None if it was not compiled from this source."""
        data = _read(self._directory / _file_name(name, path))
        if data is None or len(data) < _HEADER.size:
            return None
        magic, mtime, size, source_digest, digest = _HEADER.unpack_from(data)
        body = memoryview(data)[_HEADER.size :]
        if magic != _MAGIC or _digest(body) != digest or not _is_same_source(path, mtime, size, source_digest):
            return None
        return Entry(*marshal.loads(body))  # noqa: S302 - no other user could write it

    def store(self, name: str, path: str, source: bytes, entry: Entry) -> None:
        """Write the entry of a module, atomically."""
        status = os.stat(path)
        body = marshal.dumps(tuple(entry))
        header = _HEADER.pack(_MAGIC, status.st_mtime_ns, status.st_size, _digest(source), _digest(body))
        _write(self._directory / _file_name(name, path), header + body)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _file_name(name: str, path: str) -> str:
    return _digest(f"{name}\0{path}".encode()).hex()


def _is_same_source(path: str, mtime: int, size: int, digest: bytes) -> bool:
    try:
        status = os.stat(path)
        if status.st_size != size:
            return False
        # As the import system itself does for .pyc files; the hash decides where the time alone has changed.
        return status.st_mtime_ns == mtime or _digest(Path(path).read_bytes()) == digest
    except OSError:
        return False


def _check_owner(directory: Path) -> None:
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        raise NotCompiled from None
    except OSError as error:
        raise CacheError(f"{directory} cannot be read: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise CacheError(f"{directory} is not a directory")
    if not _is_trusted(status):
        raise CacheError(f"{directory} can be written by other users; run 'chmod go-w' on it, or remove it")


def _is_trusted(status: os.stat_result) -> bool:
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _read(path: Path) -> bytes | None:
    """Return the bytes of a regular file that nobody else can write, or None."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        return file.read() if stat.S_ISREG(status.st_mode) and _is_trusted(status) else None


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(data)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CacheError(f"{path} cannot be written: {error.strerror}") from error
