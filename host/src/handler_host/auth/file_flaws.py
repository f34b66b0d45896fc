"""Flaws of the places of the host's files, judged the same by ``serve`` and ``doctor``: others could replace them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from handler_host.config import Config, kept_state_file
from handler_host.config.listen import parse_listen

CONTAINER_SECRETS = Path("/run/secrets")
"""Directory in which Docker and Podman mount the secrets of a container."""


class FileFlaw(NamedTuple):
    """A file or directory of the host that other users, or workers, can replace or read."""

    setting: str
    text: str


def find_file_flaws(config: Config, environ: Mapping[str, str]) -> Iterator[FileFlaw]:
    """Yield the flaws of all files that the configuration names, with their remedies; it looks at the file system."""
    # A pod has no other users, and all may write to its volumes (emptyDir: 0777) and read its secrets (0644).
    has_users = "KUBERNETES_SERVICE_HOST" not in environ
    shared = _directories_of_workers(config, environ)
    for setting, file in _files(config):
        link = Path(os.path.realpath(file.parent), file.name)
        paths = dict.fromkeys((link, Path(os.path.realpath(file))))  # a link can be replaced, too
        yield from dict.fromkeys(
            FileFlaw(setting, text) for path in paths for text in _flaws_of(path, shared, has_users=has_users)
        )
    key = config.server.tls_key
    if has_users and key is not None and not _is_container_secret(key) and _mode(key) & stat.S_IROTH:
        yield FileFlaw("server.tls_key", f"all users of this machine can read {key}; run chmod o-r {key}")


def _flaws_of(path: Path, shared: list[Path], *, has_users: bool) -> Iterator[str]:
    """Yield the flaws of a resolved path, which may be a link itself; ``shared`` are the directories of workers."""
    parent = next((directory for directory in shared if path.is_relative_to(directory)), None)
    if parent is not None:
        yield f"{path} is below {parent}, where all workers read and write; move it elsewhere"
    if not has_users:
        return
    for place in path.parents if path.is_symlink() else (path, *path.parents):
        mode = _mode(place)
        # In a directory with the sticky bit, such as /tmp, users replace their own files only.
        if mode & stat.S_IWOTH and not (mode & stat.S_ISVTX and place != path) and not stat.S_ISSOCK(mode):
            yield f"all users of this machine can write to {place}; run chmod o-w {place}"


def _files(config: Config) -> Iterator[tuple[str, Path]]:
    files = {
        "the configuration": config.source,
        "data_dir": config.data_dir,
        "memory.state_file": kept_state_file(config.memory),
        "auth.consumers_file": config.auth.consumers_file,
        "server.tls_key": config.server.tls_key,
    }
    yield from ((setting, path) for setting, path in files.items() if path is not None)
    listens = [("server.listen", listen) for listen in config.server.listen]
    if config.admin.listen is not None:
        listens.append(("admin.listen", config.admin.listen))
    for setting, listen in listens:
        socket = parse_listen(listen).path
        if socket is not None:
            yield setting, Path(socket)


def _directories_of_workers(config: Config, environ: Mapping[str, str]) -> list[Path]:
    """Return the directories in which confined workers write (``workers/runtime/file_rules.py``)."""
    if config.workers.confine == "off":
        return []  # they write wherever the host's user may
    temporary = environ.get("TMPDIR")
    names = ["/dev/shm", *([temporary] if temporary else ["/tmp", "/var/tmp"])]  # noqa: S108 - of tempfile
    return [Path(os.path.realpath(name)) for name in names]


def _is_container_secret(path: Path) -> bool:
    """Return whether Docker or Podman has mounted the file: all may read it (0444), but in its container only."""
    return Path(os.path.realpath(path)).is_relative_to(CONTAINER_SECRETS)


def _mode(path: Path) -> int:
    """Return the mode of a file; 0 if it does not exist."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0
