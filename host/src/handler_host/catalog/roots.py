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


def find_roots(
    configured: Sequence[str | os.PathLike[str]],
    environ: Mapping[str, str],
    *,
    include_sys_path: bool = True,
    search_path: Sequence[str],
    host_path: Sequence[str] = (),
) -> tuple[list[Root], list[str]]:
    """Return the roots, each directory once, and warnings about configured ones that are missing.

    The order is that of a worker's imports: ``search_path``, which host and workers share; then the
    configured roots; then ``host_path``, which only this process imports from.
    """
    on_path = {os.path.realpath(path or os.curdir) for path in search_path}
    sites = {os.path.realpath(path) for path in _site_directories()}
    roots: dict[str, Root] = {}
    warnings: list[str] = []
    named: set[str] | None = None
    for path in search_path if include_sys_path else ():
        real = os.path.realpath(path or os.curdir)
        if real in roots or not os.path.isdir(real):
            continue
        in_tree = is_site = real in sites
        if not is_site:
            if named is None:
                named = set(_named_directories(sites & on_path, environ))
            in_tree = real in named
        roots[real] = Root(os.path.abspath(path or os.curdir), real, True, is_site, in_tree)
    for directory in configured:
        path = os.path.abspath(directory)
        real = os.path.realpath(path)
        if not os.path.isdir(real):
            warnings.append(f"catalog.roots: {path} is not a directory; create it, or remove it from the roots")
        elif real not in roots:
            is_on_path = real in on_path
            roots[real] = Root(path, real, is_on_path, real in sites or not is_on_path, True)
    for path in host_path if include_sys_path else ():
        real = os.path.realpath(path or os.curdir)
        if real not in roots and os.path.isdir(real):
            in_tree = real == os.path.realpath(os.curdir)
            roots[real] = Root(os.path.abspath(path or os.curdir), real, False, True, in_tree)
    return list(roots.values()), warnings


def split_search_path(environ: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the part of ``sys.path`` that every new interpreter, and so each worker, has, and the rest.

    Shared are the standard library, the site directories, the directories in their ``.pth`` files, and
    ``PYTHONPATH``. The rest is the directory that the host was started in or from, and the directories
    that were added at run time: by an application that mounts the host, or for an inline handler.
    """
    sites = [os.path.realpath(path) for path in _site_directories()]
    library = os.path.realpath(os.path.dirname(os.__file__))
    python_path = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    shared = {library, *sites, *map(os.path.realpath, python_path)}
    for site in sites:
        shared.update(map(os.path.realpath, pth_directories(site)))
    parts: tuple[list[str], list[str]] = ([], [])
    for path in sys.path:
        parts[os.path.realpath(path or os.curdir) not in shared].append(path)
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


def _named_directories(sites: Collection[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the directories that something puts on the path now: working directory, PYTHONPATH, ``.pth`` files.

    setuptools leaves ``.egg-info`` in the source tree when an editable is uninstalled, and the
    tree stays on the path of a host that was started before.
    """
    yield os.path.realpath(os.curdir)
    for path in environ.get("PYTHONPATH", "").split(os.pathsep):
        yield os.path.realpath(path or os.curdir)
    for site in sites:
        for directory in pth_directories(site):
            yield os.path.realpath(directory)
