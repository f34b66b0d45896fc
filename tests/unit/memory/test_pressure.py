"""The kernel's reports of memory pressure are read as it writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.memory.cgroups import MemoryLimit
from handler_host.memory.pressure import (
    KILL_AGE_S,
    KernelView,
    OomKillCounter,
    PressureTracker,
    read_kernel_view,
)

MB = 1024**2
V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n"
V2 = "41 31 0:38 / /sys/fs/cgroup rw,nosuid,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
PSI = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"


class Machine:
    """A tree of ``proc`` and ``sys``."""

    def __init__(self, root: Path, mounts: str, groups: str) -> None:
        self.root = root
        self.write("proc/self/mountinfo", mounts)
        self.write("proc/self/cgroup", groups)

    def write(self, path: str, text: str) -> str:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return str(file)

    def view(self, limit: MemoryLimit | None = None) -> KernelView:
        return read_kernel_view(limit or MemoryLimit(MB, MB, "machine"), self.root)


def test_version_2_reports_on_the_group_itself(tmp_path: Path) -> None:
    machine = Machine(tmp_path, V2, "0::/app\n")
    machine.write("proc/pressure/memory", PSI.format(9_000_000))
    machine.write("proc/vmstat", "nr_free_pages 12\noom_kill 77\n")
    pressure = machine.write("sys/fs/cgroup/app/memory.pressure", PSI.format(1_500_000))
    events = machine.write("sys/fs/cgroup/app/memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n")
    limit = machine.write("sys/fs/cgroup/app/memory.max", f"{512 * MB}\n")
    machine.write(
        "sys/fs/cgroup/app/memory.stat",
        "anon 1000\nfile 5000\nshmem 200\nkernel_stack 30\npagetables 4\nslab_reclaimable 999\nslab_unreclaimable 5\n",
    )
    view = machine.view(MemoryLimit(512 * MB, 512 * MB, "cgroup v2", limit))
    assert view == KernelView(1.5, pressure, 2, events, 1239)


def test_version_1_has_no_pressure_of_its_own(tmp_path: Path) -> None:
    machine = Machine(tmp_path, V1, "4:memory:/app\n")
    pressure = machine.write("proc/pressure/memory", PSI.format(2_000_000))
    events = machine.write(
        "sys/fs/cgroup/memory/app/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n"
    )
    limit = machine.write("sys/fs/cgroup/memory/app/memory.limit_in_bytes", f"{512 * MB}\n")
    machine.write("sys/fs/cgroup/memory/app/memory.stat", "rss 1\nshmem 2\ntotal_rss 1000\ntotal_shmem 50\n")
    view = machine.view(MemoryLimit(512 * MB, 512 * MB, "cgroup v1", limit))
    assert view == KernelView(2.0, pressure, 4, events, 1050)


def test_without_control_groups_it_is_the_machine(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "", "")
    pressure = machine.write("proc/pressure/memory", PSI.format(500_000))
    kills = machine.write("proc/vmstat", "oom_kill 1\n")
    assert machine.view() == KernelView(0.5, pressure, 1, kills, None)


@pytest.mark.parametrize("text", ["", "garbage\n", "some total=\n", "oom_kill\n", "oom_kill many\n"])
def test_a_missing_counter_is_none(tmp_path: Path, text: str) -> None:
    machine = Machine(tmp_path, V2, "0::/app\n")
    for path in ("proc/pressure/memory", "proc/vmstat", "sys/fs/cgroup/app/memory.events"):
        machine.write(path, text)
    assert machine.view() == KernelView()


class TestPressureTracker:
    def test_the_share_is_that_of_the_time_between_two_updates(self) -> None:
        tracker = PressureTracker(0.1)
        tracker.update(10.0, now=100.0)
        assert (tracker.share, tracker.is_high) == (0.0, False)
        tracker.update(10.5, now=101.0)
        assert (tracker.share, tracker.is_high) == (0.5, True)
        tracker.update(10.5, now=103.0)
        assert (tracker.share, tracker.is_high) == (0.0, False)

    def test_two_updates_in_a_moment_are_one(self) -> None:
        tracker = PressureTracker(0.1)
        tracker.update(0.0, now=1.0)
        tracker.update(0.01, now=1.01)
        assert not tracker.is_high
        tracker.update(0.01, now=2.0)
        assert tracker.share == pytest.approx(0.01)

    def test_off_and_a_kernel_without_counters_report_no_pressure(self) -> None:
        off, silent = PressureTracker(None), PressureTracker(0.1)
        for second in range(3):
            off.update(float(second), now=float(second))
            silent.update(None, now=float(second))
        assert not off.is_high
        assert not silent.is_high


class TestOomKillCounter:
    def test_each_kill_explains_one_exit(self) -> None:
        kills = OomKillCounter()
        assert kills.update(7, now=0.0) == 0
        assert not kills.explain(now=0.0), "kills before the start do not count"
        assert kills.update(9, now=1.0) == 2
        assert [kills.explain(now=1.1) for _ in range(3)] == [True, True, False]

    def test_an_old_kill_explains_nothing(self) -> None:
        """A foreign process was killed; later an operator kills a worker by hand."""
        kills = OomKillCounter()
        kills.update(0, now=0.0)
        kills.update(1, now=1.0)
        assert not kills.explain(now=1.1 + KILL_AGE_S)

    def test_readings_out_of_order_and_missing_ones_are_not_kills(self) -> None:
        kills = OomKillCounter()
        kills.update(5, now=0.0)
        kills.update(6, now=1.0)
        assert kills.update(5, now=1.1) == 0
        assert kills.update(6, now=1.2) == 0
        assert kills.update(None, now=1.3) == 0
        assert [kills.explain(now=1.4) for _ in range(2)] == [True, False]
