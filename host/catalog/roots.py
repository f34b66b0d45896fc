"""The directories in which installed distributions are looked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec


class Root(msgspec.Struct, frozen=True):
    """A directory that may hold the metadata of distributions."""

    path: str
    """Absolute, as it was given."""
    real: str
    """Without symbolic links: two roots of the same are one."""
    on_path: bool
    """Whether the host itself imports from it."""
    is_site: bool
    """Whether ``.pth`` files in it count: a site directory of the host, or one that workers add as such."""
    counts_in_tree: bool
    """Whether an ``.egg-info`` beside its sources counts as installed."""


def find_roots(
    configured: Sequence[str | os.PathLike[str]],
    environ: Mapping[str, str],
    *,
    include_sys_path: bool = True,
    search_path: Sequence[str] | None = None,
) -> tuple[list[Root], list[str]]:
    """Return the roots, each directory once, and complaints about configured ones that are none.

    Those of ``search_path`` (default: ``sys.path``) come first, as workers look there first.
    """
    search_path = sys.path if search_path is None else search_path
    on_path = {os.path.realpath(path or os.curdir) for path in search_path}
    sites = {os.path.realpath(path) for path in _site_directories()}
    roots: dict[str, Root] = {}
    complaints: list[str] = []
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
    for given in configured:
        path = os.path.abspath(given)
        real = os.path.realpath(path)
        if not os.path.isdir(real):
            complaints.append(f"catalog.roots: {path} is no directory")
        elif real not in roots:
            own = real in on_path
            roots[real] = Root(path, real, own, real in sites or not own, True)
    return list(roots.values()), complaints


def pth_directories(directory: str, names: Collection[str] | None = None) -> Iterator[str]:
    """Yield the directories that ``.pth`` files of a site directory add to the path: all files, or those named."""
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
            # Lines that begin with `import` are code, which is not run here.
            if line and not line.startswith(("#", "import ", "import\t")) and "\0" not in line:
                yield os.path.join(directory, line)


def _site_directories() -> Iterator[str]:
    site = sys.modules.get("site")
    if site is not None:
        yield from site.getsitepackages()
        if site.ENABLE_USER_SITE:
            yield site.getusersitepackages()


def _named_directories(sites: Collection[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what is on the path by somebody's word that holds today.

    setuptools leaves ``.egg-info`` in the source tree when an editable is
    uninstalled, and the tree stays on the path of a host that runs since before.
    """
    yield os.path.realpath(os.curdir)
    for path in environ.get("PYTHONPATH", "").split(os.pathsep):
        yield os.path.realpath(path or os.curdir)
    for site in sites:
        for directory in pth_directories(site):
            yield os.path.realpath(directory)
