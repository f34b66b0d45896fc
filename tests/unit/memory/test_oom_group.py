"""Detection of ``memory.oom.group``, on a tree of files as the kernel shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.memory.cgroups import find_oom_group


def tree(root: Path, kind: str, group: str, value: str | None) -> Path:
    """Write the files of a process in a group below a mount; return the group's directory."""
    (root / "proc/self").mkdir(parents=True)
    hierarchy = "0::" if kind == "cgroup2" else "5:memory:"
    (root / "proc/self/cgroup").write_text(f"{hierarchy}{group}\n")
    options = "rw,memory" if kind == "cgroup" else "rw"
    (root / "proc/self/mountinfo").write_text(f"30 23 0:26 / /sys/fs/cgroup rw - {kind} {kind} {options}\n")
    directory = root / "sys/fs/cgroup" / group.lstrip("/")
    directory.mkdir(parents=True)
    if value is not None:
        (directory / "memory.oom.group").write_text(f"{value}\n")
    return directory


@pytest.mark.parametrize(("value", "is_found"), [("1", True), ("0", False), (None, False)])
def test_only_a_group_that_is_killed_as_a_whole_is_found(tmp_path: Path, value: str | None, is_found: bool) -> None:
    directory = tree(tmp_path, "cgroup2", "/pod/container", value)
    assert find_oom_group(tmp_path) == (directory / "memory.oom.group" if is_found else None)


def test_a_group_further_up_counts(tmp_path: Path) -> None:
    directory = tree(tmp_path, "cgroup2", "/pod/container", "0")
    (directory.parent / "memory.oom.group").write_text("1\n")
    assert find_oom_group(tmp_path) == directory.parent / "memory.oom.group"


def test_control_groups_v1_have_no_such_file(tmp_path: Path) -> None:
    tree(tmp_path, "cgroup", "/docker/1", "1")
    assert find_oom_group(tmp_path) is None
