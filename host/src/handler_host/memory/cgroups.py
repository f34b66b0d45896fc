"""The memory limit of this machine or container, and the control groups (v1 and v2) that this process is in.

All functions are synchronous and take parts of a millisecond; the event loop
runs them in a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from handler_host.config import MemoryConfig
from handler_host.memory.procfs import read_lines

HOST_GROUP = "handler-host"
"""Name of the group that the host moves to, with ``workers.control_groups``."""
WORKERS_GROUP = "handler-host-workers"
"""Name of the group that limits all workers together, beside it."""
OOM_GROUP = "memory.oom.group"
OOM_GROUP_ADVICE = (
    "when memory runs out, the kernel kills the host together with the worker, not the worker alone; set the kubelet's "
    "singleProcessOOMKill: true (Kubernetes), or OOMPolicy=continue (systemd), or workers.control_groups = true where "
    "the host may make control groups"
)
"""What ``memory.oom.group`` means for the host, and the remedy."""
UNLIMITED = 2**60
"""A larger limit means "no limit": control groups v1 write the largest page count."""


class MemoryLimit(msgspec.Struct, frozen=True):
    """Bytes that the host and all its processes may use together."""

    bytes: int
    usable: int
    """The limit less the headroom."""
    source: str
    """``configured``, ``cgroup v2``, ``cgroup v1`` or ``machine``."""
    path: str | None = None
    """The file that the limit was read from."""


def read_limit(config: MemoryConfig, root: Path = Path("/")) -> MemoryLimit:
    """Return the limit in force; ``root`` is where ``proc`` and ``sys`` are."""
    if config.limit is not None:
        return _with_headroom(config.limit, config.headroom, "configured", None)
    limits = [(_machine_memory(root), "machine", None), *_group_limits(root)]
    size, source, path = min(limits, key=lambda entry: entry[0])
    return _with_headroom(size, config.headroom, source, path)


def _with_headroom(size: int, headroom: float | int, source: str, path: str | None) -> MemoryLimit:
    return MemoryLimit(size, less_headroom(size, headroom), source, path)


def less_headroom(size: int, headroom: float | int) -> int:
    """Return the bytes of ``size`` that are usable; ``headroom`` is the share (float) or the bytes to keep free."""
    return max(0, size - (int(size * headroom) if isinstance(headroom, float) else headroom))


def _machine_memory(root: Path) -> int:
    for line in read_lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _group_limits(root: Path) -> list[tuple[int, str, str | None]]:
    """Return the limits of the control groups that this process is in, and of all that contain them."""
    return [
        (size, source, str(directory / name))
        for source, directories in control_groups(root)
        for directory in directories
        for name in _LIMIT_FILES[source]
        if (size := _read_limit_file(directory / name)) is not None
    ]


_LIMIT_FILES = {"cgroup v2": ("memory.max", "memory.high"), "cgroup v1": ("memory.limit_in_bytes", "memory.stat")}


def control_groups(root: Path = Path("/")) -> Iterator[tuple[str, list[Path]]]:
    """Yield ``cgroup v2`` or ``cgroup v1`` and the directories that account for this process's memory, its own first.

    After the directory of its own group come those of the groups that contain it. The group that the host makes for
    itself is left out: its workers are not in it.
    """
    mounts = _mounts(root)
    for line in read_lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            kind, source = "cgroup2", "cgroup v2"
        elif "memory" in controllers.split(","):
            kind, source = "cgroup", "cgroup v1"
        else:
            continue
        for mounted_group, directory in mounts.get(kind, ()):
            directories = list(_upwards(root / directory.lstrip("/"), mounted_group, group))
            if source == "cgroup v2" and directories[0].name == HOST_GROUP and _has_workers_group(directories[1:]):
                del directories[0]
            yield source, directories


def _has_workers_group(outer: list[Path]) -> bool:
    """Return whether the host has made the group for its workers: a group of an operator may have the same name."""
    return bool(outer) and (outer[0] / WORKERS_GROUP).is_dir()


def control_groups_v2(root: Path = Path("/")) -> Iterator[Path]:
    """Yield the directories of this process's own group and of those that contain it, if they are of v2."""
    for source, directories in control_groups(root):
        if source == "cgroup v2":
            yield from directories


def find_oom_group(root: Path = Path("/")) -> Path | None:
    """Return the file of a group that the kernel kills as a whole when it runs out of memory (v2), or None.

    None, too, if workers have groups of their own below it: they reach the limit of these first.
    """
    for directory in control_groups_v2(root):
        if (directory / WORKERS_GROUP).is_dir():
            return None
        if read_lines(directory / OOM_GROUP) == ["1"]:
            return directory / OOM_GROUP
    return None


def _mounts(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Return where memory control groups are mounted: kind -> (group shown, directory)."""
    mounts: dict[str, list[tuple[str, str]]] = {}
    for line in read_lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2" or (kinds[0] == "cgroup" and "memory" in kinds[2].split(",")):
            mounts.setdefault(kinds[0], []).append((_unescape(fields[3]), _unescape(fields[4])))
    return mounts


def _unescape(path: str) -> str:
    """Undo how the kernel writes spaces in a list of mounts: by their octal number."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _upwards(mount: Path, mounted_group: str, group: str) -> Iterator[Path]:
    """Yield the directory of the group, then of each group that contains it, up to the mount.

    In a container the mount shows a part of the hierarchy, named by its own root. A
    group outside of that part (``/../other``) is not visible: then only the mount is used.
    """
    inside = [part for part in mounted_group.split("/") if part]
    steps = [part for part in group.split("/") if part]
    steps = steps[len(inside) :] if steps[: len(inside)] == inside and ".." not in steps else []
    for depth in range(len(steps), -1, -1):
        yield mount.joinpath(*steps[:depth])


def _read_limit_file(path: Path) -> int | None:
    lines = read_lines(path)
    if path.name == "memory.stat":
        # Holds the limit of groups above the mount, which a container cannot see.
        lines = [line.split()[1] for line in lines if line.startswith("hierarchical_memory_limit ")]
    if len(lines) != 1 or not lines[0].strip().isdecimal():
        return None
    size = int(lines[0])
    return size if 0 < size < UNLIMITED else None
