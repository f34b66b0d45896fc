"""Reads memory from the system: what a process uses, and what there is to use.

All functions are synchronous and take up to a few milliseconds; the event loop
runs them in a thread.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from handler_host.config import MemoryConfig

Measure = Literal["pss", "uss", "rss"]
UNLIMITED = 2**60
"""A limit of more than this is none: control groups v1 write the largest page count."""


class Memory(msgspec.Struct, frozen=True):
    """What one process uses, in bytes. ``pss`` is what ``measure`` says, where there is no PSS."""

    pss: int
    uss: int
    rss: int
    measure: Measure = "pss"
    peak: int = 0
    """The most it ever took: ``pss``, and what its resident memory was more at its highest."""
    anonymous: int = 0
    """Its share of what no file is behind, which the kernel cannot drop; 0 where that is not told."""


class MemoryLimit(msgspec.Struct, frozen=True):
    """What the host and all its processes may use together."""

    bytes: int
    usable: int
    """The limit less the headroom."""
    source: str
    """``configured``, ``cgroup v2``, ``cgroup v1`` or ``machine``."""
    path: str | None = None
    """The file that it was read from."""


def read_memory(pid: int) -> Memory | None:
    """Return what a process uses, or None if it has ended (a zombie uses nothing)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except ProcessLookupError:
        return None
    except FileNotFoundError:
        # The process is gone, or the kernel is older than the file, or there is no /proc at all.
        gone = Path("/proc/self").exists() and not Path(f"/proc/{pid}").exists()
        return None if gone else read_other_memory(pid)
    except OSError:
        return read_other_memory(pid)
    sizes = dict.fromkeys(_ROLLUP, 0)
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = int(rest.split()[0]) * 1024
    if not sizes["Rss"]:
        return None
    return Memory(
        pss=sizes["Pss"],
        uss=sizes["Private_Clean"] + sizes["Private_Dirty"] + sizes["Private_Hugetlb"],
        rss=sizes["Rss"],
        # What came and went since is its own: pages that it shares were there when it was forked.
        peak=sizes["Pss"] + max(0, _highest_resident(pid) - sizes["Rss"]),
        anonymous=sizes["Pss_Anon"] + sizes["Pss_Shmem"],
    )


_ROLLUP = ("Pss", "Rss", "Pss_Anon", "Pss_Shmem", "Private_Clean", "Private_Dirty", "Private_Hugetlb")


def _highest_resident(pid: int) -> int:
    for line in _lines(Path(f"/proc/{pid}/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def read_other_memory(pid: int) -> Memory | None:
    """Return what a process uses by the next best measure: USS, or where that is not allowed, RSS."""
    import psutil  # only where the system has no PSS to read

    try:
        process = psutil.Process(pid)
        try:
            full = process.memory_full_info()
            return Memory(full.uss, full.uss, full.rss, "uss", peak=full.uss)
        except psutil.AccessDenied:
            rss = process.memory_info().rss
            return Memory(rss, rss, rss, "rss", peak=rss)
    except psutil.NoSuchProcess:
        return None


def read_limit(config: MemoryConfig, root: Path = Path("/")) -> MemoryLimit:
    """Return the limit in force; ``root`` is where ``proc`` and ``sys`` are."""
    if config.limit is not None:
        return _with_headroom(config.limit, config.headroom, "configured", None)
    found = [(_machine(root), "machine", None), *_control_groups(root)]
    size, source, path = min(found, key=lambda entry: entry[0])
    return _with_headroom(size, config.headroom, source, path)


def _with_headroom(size: int, headroom: float | int, source: str, path: str | None) -> MemoryLimit:
    free = int(size * headroom) if isinstance(headroom, float) else headroom
    return MemoryLimit(size, max(0, size - free), source, path)


def _machine(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _control_groups(root: Path) -> list[tuple[int, str, str | None]]:
    """Return the limits of the control groups that this process is in, and of all that contain them."""
    return [
        (size, source, str(place / name))
        for source, places in control_groups(root)
        for place in places
        for name in _LIMITS[source]
        if (size := _limit_in(place / name)) is not None
    ]


_LIMITS = {"cgroup v2": ("memory.max", "memory.high"), "cgroup v1": ("memory.limit_in_bytes", "memory.stat")}


def control_groups(root: Path = Path("/")) -> Iterator[tuple[str, list[Path]]]:
    """Yield where this process's memory is accounted: ``cgroup v2`` or ``cgroup v1``, and directories, its own first.

    After the directory of its own group come those of the groups that contain it.
    """
    mounts = _mounts(root)
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            kind, source = "cgroup2", "cgroup v2"
        elif "memory" in controllers.split(","):
            kind, source = "cgroup", "cgroup v1"
        else:
            continue
        for mounted_group, directory in mounts.get(kind, ()):
            yield source, list(_upwards(root / directory.lstrip("/"), mounted_group, group))


def _mounts(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Return where memory control groups are mounted: kind -> (group shown, directory)."""
    mounts: dict[str, list[tuple[str, str]]] = {}
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2" or (kinds[0] == "cgroup" and "memory" in kinds[2].split(",")):
            mounts.setdefault(kinds[0], []).append((_unescaped(fields[3]), _unescaped(fields[4])))
    return mounts


def _unescaped(path: str) -> str:
    """Undo how the kernel writes spaces in a list of mounts: by their octal number."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _upwards(mount: Path, mounted_group: str, group: str) -> Iterator[Path]:
    """Yield the directory of the group, then of each group that contains it, up to the mount.

    In a container the mount shows a part of the hierarchy, named by its own root; a
    group that is no part of it (``/../other``) is not to be seen, and the mount has to do.
    """
    inside = [part for part in mounted_group.split("/") if part]
    steps = [part for part in group.split("/") if part]
    steps = steps[len(inside) :] if steps[: len(inside)] == inside and ".." not in steps else []
    for depth in range(len(steps), -1, -1):
        yield mount.joinpath(*steps[:depth])


def _limit_in(path: Path) -> int | None:
    lines = _lines(path)
    if path.name == "memory.stat":
        # Holds what groups above the mount, which a container does not see, allow.
        lines = [line.split()[1] for line in lines if line.startswith("hierarchical_memory_limit ")]
    if len(lines) != 1 or not lines[0].strip().isdecimal():
        return None
    size = int(lines[0])
    return size if 0 < size < UNLIMITED else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):
        return []
