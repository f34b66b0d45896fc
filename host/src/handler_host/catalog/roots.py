"""The directories that the host searches for installed distributions."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec


class Root(msgspec.Struct, frozen=True):
    """A directory that may hold the metadata of distributions."""

    path: str
    """Absolute, with symbolic links."""
    real: str
    """Without symbolic links; identifies the root."""
    on_path: bool
    """Whether it is on the path of host and workers."""
    is_site: bool
    """Whether its ``.pth`` files count: a site directory of the host, or one that workers add as such."""
    counts_in_tree: bool
    """Whether an ``.egg-info`` beside its sources counts as installed."""
    named_by: str | None = None
    """The site directory whose ``.pth`` file names this root, if only that puts it on a path."""

    @property
    def added_path(self) -> str:
        """The site directory that a worker adds in order to import from this root."""
        return self.path if self.named_by is None else self.named_by


class Roots(msgspec.Struct, frozen=True):
    """The directories to search, each once."""

    roots: list[Root]
    eggs: list[str]
    """Zipped eggs on the path."""
    warnings: list[str]


def find_roots(
    configured: Sequence[str | os.PathLike[str]],
    environ: Mapping[str, str],
    *,
    include_sys_path: bool = True,
    search_path: Sequence[str],
    host_path: Sequence[str] = (),
) -> Roots:
    """Return the roots, with warnings about configured ones that are missing.

    The order is that of a worker's imports: ``search_path``, which host and workers share; then the
    configured roots; then ``host_path``, which only this process imports from.
    """
    finder = _Finder(search_path, environ)
    if include_sys_path:
        finder.add_search_path(search_path)
    finder.add_configured(configured)
    if include_sys_path:
        finder.add_host_path(host_path)
    return finder.result()


def named_directories(site: Root, names: Collection[str], known: Collection[str]) -> Iterator[Root | str]:
    """Yield the directories that ``.pth`` files of a site directory name and that are not ``known``, as roots.

    They are projects of ``setup.py develop`` and eggs; a zipped egg is yielded as its path.
    """
    for path in pth_directories(site.path, names):
        real = os.path.realpath(path)
        if real not in known and os.path.isdir(real):
            yield Root(os.path.abspath(path), real, False, False, True, named_by=site.path)
        elif real.endswith(".egg") and os.path.isfile(real):
            yield os.path.abspath(path)


class _Finder:
    """Collects roots; the first one of each directory counts."""

    def __init__(self, search_path: Sequence[str], environ: Mapping[str, str]) -> None:
        self._roots: dict[str, Root] = {}
        self._eggs: list[str] = []
        self._warnings: list[str] = []
        self._environ = environ
        self._working_directory = _real(os.curdir)
        self._on_path = {_real(path) for path in search_path}
        self._sites = {os.path.realpath(path) for path in _site_directories()}
        if self._working_directory is None:
            self._warnings.append(
                "the host's working directory was removed, and relative paths are skipped; "
                "restart the host in a directory that exists"
            )

    def result(self) -> Roots:
        return Roots(list(self._roots.values()), self._eggs, self._warnings)

    def add_search_path(self, search_path: Sequence[str]) -> None:
        named: set[str | None] | None = None
        for path in search_path:
            real = _real(path)
            if real is None or real in self._roots:
                continue
            if not os.path.isdir(real):
                if real.endswith(".egg") and os.path.isfile(real):
                    self._eggs.append(os.path.abspath(path))
                continue
            in_tree = is_site = real in self._sites
            if not is_site:
                if named is None:
                    named = set(_named_directories(self._sites & self._on_path, self._environ))
                in_tree = real in named
            self._roots[real] = Root(os.path.abspath(path or os.curdir), real, True, is_site, in_tree)

    def add_configured(self, configured: Sequence[str | os.PathLike[str]]) -> None:
        for directory in configured:
            path = os.fspath(directory)
            real = _real(path)
            if real is None or not os.path.isdir(real):
                name = path if real is None else os.path.abspath(path)
                self._warnings.append(
                    f"catalog.roots: {name} is not a directory; create it, or remove it from the roots"
                )
            elif real not in self._roots:
                is_on_path = real in self._on_path
                is_site = real in self._sites or not is_on_path
                self._roots[real] = Root(os.path.abspath(path), real, is_on_path, is_site, True)

    def add_host_path(self, host_path: Sequence[str]) -> None:
        for path in host_path:
            real = _real(path)
            if real is not None and real not in self._roots and os.path.isdir(real):
                in_tree = real == self._working_directory
                self._roots[real] = Root(os.path.abspath(path or os.curdir), real, False, True, in_tree)


def _real(path: str) -> str | None:
    """Return a path without symbolic links; None for a relative one if the working directory was removed."""
    try:
        return os.path.realpath(path or os.curdir)
    except OSError:
        return None


def split_search_path(environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the part of ``sys.path`` that every new interpreter, and so each worker, has, and the rest.

    Shared are the standard library, the site directories, the directories in their ``.pth`` files, and
    ``PYTHONPATH``. The rest is the directory that the host was started in or from, and the directories
    that were added at run time: by an application that mounts the host, or for an inline handler.
    """
    sites = [os.path.realpath(path) for path in _site_directories()]
    library = os.path.realpath(os.path.dirname(os.__file__))
    python_path = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    shared = {library, *sites, *map(_real, python_path)}
    for site in sites:
        shared.update(map(os.path.realpath, pth_directories(site)))
    parts: tuple[list[str], list[str]] = ([], [])
    for path in sys.path:
        parts[_real(path) not in shared].append(path)
    return parts


def pth_directories(directory: str, names: Collection[str] | None = None) -> Iterator[str]:
    """Yield the directories that ``.pth`` files of a site directory add to the path: all files, or ``names``."""
    if names is None:
        try:
            names = sorted(name for name in os.listdir(directory) if name.endswith(".pth"))
        except OSError:
            return
    for name in names:
        try:
            with open(os.path.join(directory, name), encoding="utf-8-sig", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines:
            line = line.strip()
            # Lines that begin with `import` are code, which does not run here.
            if line and not line.startswith(("#", "import ", "import\t")) and "\0" not in line:
                yield os.path.join(directory, line)


def _site_directories() -> Iterator[str]:
    site = sys.modules.get("site")
    if site is not None:
        yield from site.getsitepackages()
        if site.ENABLE_USER_SITE:
            yield site.getusersitepackages()


def _named_directories(sites: Collection[str], environ: Mapping[str, str]) -> Iterator[str | None]:
    """Yield the directories that something puts on the path now: working directory, PYTHONPATH, ``.pth`` files.

    setuptools leaves ``.egg-info`` in the source tree when an editable is uninstalled, and the
    tree stays on the path of a host that was started before.
    """
    yield _real(os.curdir)
    for path in environ.get("PYTHONPATH", "").split(os.pathsep):
        yield _real(path)
    for site in sites:
        for directory in pth_directories(site):
            yield os.path.realpath(directory)
