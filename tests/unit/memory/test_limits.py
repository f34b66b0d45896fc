"""The limit in force: the configured one, else the smallest of the control groups' limits and the machine's memory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler_host.config import MemoryConfig
from handler_host.memory.cgroups import HOST_GROUP, MemoryLimit, read_limit

MB = 1024**2
NO_LIMIT_V1 = 9223372036854771712
"""The value of control groups v1 without a limit."""
V1 = "35 31 0:32 {root} {mount} rw,relatime shared:9 - cgroup cgroup rw,memory\n"
V2 = "41 31 0:38 {root} {mount} rw,nosuid,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"


class Machine:
    """A tree of ``proc`` and ``sys``: 1000 MB, and control groups as a test writes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {1000 * 1024} kB\nMemFree: 1 kB\n")
        self.mounts(OTHER)
        self.groups("9:cpu:/\n1:name=systemd:/init.scope\n")

    def write(self, path: str, text: str | int) -> str:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n" if isinstance(text, int) else text)
        return str(file)

    def mounts(self, text: str) -> None:
        self.write("proc/self/mountinfo", text)

    def groups(self, text: str) -> None:
        self.write("proc/self/cgroup", text)

    def limit(self) -> MemoryLimit:
        return read_limit(MemoryConfig(headroom=0), self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_control_groups_it_is_the_machine(machine: Machine) -> None:
    assert machine.limit() == MemoryLimit(1000 * MB, 1000 * MB, "machine")


@pytest.mark.parametrize(
    ("mount", "line", "file"), [(V1, "4:memory", "memory.limit_in_bytes"), (V2, "0:", "memory.max")]
)
def test_a_group_of_an_operator_may_have_the_hosts_name(machine: Machine, mount: str, line: str, file: str) -> None:
    machine.mounts(mount.format(root="/", mount="/sys/fs/cgroup"))
    machine.groups(f"{line}:/{HOST_GROUP}\n")
    machine.write(f"sys/fs/cgroup/{HOST_GROUP}/{file}", 100 * MB)
    assert machine.limit().bytes == 100 * MB


def test_without_proc_it_is_the_machine_too(tmp_path: Path) -> None:
    limit = read_limit(MemoryConfig(headroom=0), tmp_path)
    assert (limit.bytes, limit.source) == (os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "machine")


def test_a_configured_limit_is_not_compared(machine: Machine) -> None:
    limit = read_limit(MemoryConfig(limit=4000 * MB, headroom=0), machine.root)
    assert limit == MemoryLimit(4000 * MB, 4000 * MB, "configured")


@pytest.mark.parametrize(
    ("headroom", "usable"), [(0.1, 900 * MB), (0, 1000 * MB), (0.0, 1000 * MB), (64 * MB, 936 * MB), (2000 * MB, 0)]
)
def test_headroom_is_a_share_or_bytes(machine: Machine, headroom: float, usable: int) -> None:
    assert read_limit(MemoryConfig(headroom=headroom), machine.root).usable == usable


class TestVersion2:
    """One hierarchy: ``memory.max`` and ``memory.high`` of the group and of all above it."""

    @pytest.fixture(autouse=True)
    def _mounted(self, machine: Machine) -> None:
        machine.mounts(V2.format(root="/", mount="/sys/fs/cgroup"))
        machine.groups("0::/system.slice/host.service\n")
        machine.write("sys/fs/cgroup/system.slice/host.service/memory.max", "max\n")

    def test_the_word_max_means_unlimited(self, machine: Machine) -> None:
        assert machine.limit().source == "machine"

    def test_of_the_group(self, machine: Machine) -> None:
        path = machine.write("sys/fs/cgroup/system.slice/host.service/memory.max", 512 * MB)
        assert machine.limit() == MemoryLimit(512 * MB, 512 * MB, "cgroup v2", path)

    def test_high_counts_as_well(self, machine: Machine) -> None:
        machine.write("sys/fs/cgroup/system.slice/host.service/memory.max", 512 * MB)
        path = machine.write("sys/fs/cgroup/system.slice/host.service/memory.high", 400 * MB)
        assert machine.limit() == MemoryLimit(400 * MB, 400 * MB, "cgroup v2", path)

    def test_of_a_group_above(self, machine: Machine) -> None:
        machine.write("sys/fs/cgroup/system.slice/host.service/memory.max", 512 * MB)
        path = machine.write("sys/fs/cgroup/system.slice/memory.max", 256 * MB)
        assert machine.limit() == MemoryLimit(256 * MB, 256 * MB, "cgroup v2", path)

    def test_of_a_neighbour_is_ignored(self, machine: Machine) -> None:
        machine.write("sys/fs/cgroup/system.slice/memory.max", 256 * MB)
        machine.write("sys/fs/cgroup/system.slice/other.service/memory.max", 1 * MB)
        assert machine.limit().bytes == 256 * MB

    def test_more_than_the_machine_has_is_ignored(self, machine: Machine) -> None:
        machine.write("sys/fs/cgroup/system.slice/host.service/memory.max", 2000 * MB)
        assert machine.limit().source == "machine"

    @pytest.mark.parametrize("text", ["", "-1", "0", "many", "1 2", "\n"])
    def test_an_invalid_number_is_ignored(self, machine: Machine, text: str) -> None:
        machine.write("sys/fs/cgroup/system.slice/host.service/memory.max", text)
        assert machine.limit().source == "machine"

    def test_in_a_container_with_a_namespace(self, machine: Machine) -> None:
        """The group is the root, and so is the mount."""
        machine.groups("0::/\n")
        path = machine.write("sys/fs/cgroup/memory.max", 512 * MB)
        assert machine.limit() == MemoryLimit(512 * MB, 512 * MB, "cgroup v2", path)

    def test_in_a_container_without_a_namespace(self, machine: Machine) -> None:
        """The group's name is that of the machine, of which only a part is mounted."""
        machine.groups("0::/docker/0123/inner\n")
        machine.mounts(V2.format(root="/docker/0123", mount="/sys/fs/cgroup"))
        machine.write("sys/fs/cgroup/memory.max", 512 * MB)
        path = machine.write("sys/fs/cgroup/inner/memory.max", 300 * MB)
        assert machine.limit() == MemoryLimit(300 * MB, 300 * MB, "cgroup v2", path)

    @pytest.mark.parametrize("group", ["/../elsewhere", "/docker/01234", "/other"])
    def test_a_group_that_is_not_visible(self, machine: Machine, group: str) -> None:
        machine.groups(f"0::{group}\n")
        machine.mounts(V2.format(root="/docker/0123", mount="/sys/fs/cgroup"))
        machine.write("sys/fs/memory.max", 1 * MB)
        path = machine.write("sys/fs/cgroup/memory.max", 512 * MB)
        assert machine.limit() == MemoryLimit(512 * MB, 512 * MB, "cgroup v2", path)

    def test_a_group_that_was_deleted(self, machine: Machine) -> None:
        machine.groups("0::/system.slice/gone.service (deleted)\n")
        machine.write("sys/fs/cgroup/system.slice/memory.max", 512 * MB)
        assert machine.limit().bytes == 512 * MB

    def test_a_mount_with_a_space(self, machine: Machine) -> None:
        machine.mounts(V2.format(root="/", mount="/my\\040groups"))
        path = machine.write("my groups/system.slice/memory.max", 512 * MB)
        assert machine.limit().path == path

    def test_a_group_whose_name_has_colons(self, machine: Machine) -> None:
        machine.groups("0::/kubepods/cri:0123:host\n")
        machine.write("sys/fs/cgroup/kubepods/cri:0123:host/memory.max", 512 * MB)
        assert machine.limit().bytes == 512 * MB


class TestVersion1:
    """A hierarchy of its own for memory; the kernel sums up the groups above in ``memory.stat``."""

    @pytest.fixture(autouse=True)
    def _mounted(self, machine: Machine) -> None:
        machine.mounts(OTHER + V1.format(root="/", mount="/sys/fs/cgroup/memory"))
        machine.groups("9:cpu,cpuacct:/other\n4:memory:/app/host\n0::/\n")
        for group in ("", "app/", "app/host/"):
            machine.write(f"sys/fs/cgroup/memory/{group}memory.limit_in_bytes", NO_LIMIT_V1)

    def test_the_largest_number_means_unlimited(self, machine: Machine) -> None:
        assert machine.limit().source == "machine"

    def test_of_the_group(self, machine: Machine) -> None:
        path = machine.write("sys/fs/cgroup/memory/app/host/memory.limit_in_bytes", 512 * MB)
        assert machine.limit() == MemoryLimit(512 * MB, 512 * MB, "cgroup v1", path)

    def test_of_a_group_above(self, machine: Machine) -> None:
        path = machine.write("sys/fs/cgroup/memory/app/memory.limit_in_bytes", 256 * MB)
        assert machine.limit() == MemoryLimit(256 * MB, 256 * MB, "cgroup v1", path)

    def test_of_a_group_above_what_is_mounted(self, machine: Machine) -> None:
        """A pod's limit, which its container cannot see, is in the kernel's sum."""
        machine.mounts(V1.format(root="/app/host", mount="/sys/fs/cgroup/memory"))
        path = machine.write(
            "sys/fs/cgroup/memory/memory.stat",
            f"cache 0\nhierarchical_memory_limit {128 * MB}\nhierarchical_memsw_limit {NO_LIMIT_V1}\n",
        )
        assert machine.limit() == MemoryLimit(128 * MB, 128 * MB, "cgroup v1", path)

    def test_mounted_with_another_controller(self, machine: Machine) -> None:
        machine.mounts(V1.replace("rw,memory", "rw,cpuset,memory").format(root="/", mount="/cgroups/both"))
        machine.groups("4:cpuset,memory:/app\n")
        path = machine.write("cgroups/both/app/memory.limit_in_bytes", 512 * MB)
        assert machine.limit() == MemoryLimit(512 * MB, 512 * MB, "cgroup v1", path)


def test_where_both_are_mounted_the_smallest_wins(machine: Machine) -> None:
    # given: a hybrid machine
    machine.mounts(
        OTHER + V1.format(root="/", mount="/sys/fs/cgroup/memory") + V2.format(root="/", mount="/sys/fs/cgroup/unified")
    )
    machine.groups("4:memory:/app\n0::/app\n")
    one = machine.write("sys/fs/cgroup/memory/app/memory.limit_in_bytes", 512 * MB)
    assert machine.limit() == MemoryLimit(512 * MB, 512 * MB, "cgroup v1", one)
    # when
    two = machine.write("sys/fs/cgroup/unified/app/memory.max", 300 * MB)
    # then
    assert machine.limit() == MemoryLimit(300 * MB, 300 * MB, "cgroup v2", two)


@pytest.mark.parametrize("text", ["", "garbage\n", "::::\n", "4:memory\n", "0::\n", "4:memory:/\n0::/\n"])
def test_nothing_in_proc_makes_it_fail(machine: Machine, text: str) -> None:
    for mounts in ("", "garbage\n", "a b c d e - cgroup\n", " - \n", V1.format(root="/", mount="/none")):
        machine.mounts(mounts)
        machine.groups(text)
        assert machine.limit().source == "machine"


class TestThisMachine:
    def test_has_a_limit(self) -> None:
        limit = read_limit(MemoryConfig())
        assert 16 * MB < limit.usable < limit.bytes < 2**50
        assert limit.path is None or Path(limit.path).exists()

    @pytest.fixture
    def group(self) -> Iterator[Path]:
        """A control group of the kernel, without processes."""
        path = Path("/sys/fs/cgroup/memory") / f"handler-host-test-{secrets.token_hex(4)}"
        try:
            path.mkdir()
        except OSError as error:
            pytest.skip(f"no control group v1 can be made here: {error}")
        yield path
        path.rmdir()

    def test_control_groups_are_read_as_the_kernel_writes_them(self, group: Path, machine: Machine) -> None:
        # given: the kernel's own group, limits and mounts; only the membership is made up
        inner = group / "inner"
        inner.mkdir()
        try:
            machine.mounts(Path("/proc/self/mountinfo").read_text())
            (machine.root / "sys").symlink_to("/sys")
            machine.groups(f"4:memory:/{group.name}/inner\n")
            assert machine.limit().source == "machine"
            # when
            (group / "memory.limit_in_bytes").write_text(str(512 * MB))
            # then
            outer = machine.limit()
            assert (outer.bytes, outer.source) == (512 * MB, "cgroup v1")
            # when
            (inner / "memory.limit_in_bytes").write_text("256M")
            # then
            assert machine.limit().path == str(
                machine.root / f"sys/fs/cgroup/memory/{group.name}/inner/memory.limit_in_bytes"
            )
            assert machine.limit().bytes == 256 * MB
        finally:
            inner.rmdir()
