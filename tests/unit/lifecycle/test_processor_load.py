"""Whether one more worker would help: processors that the workers use, and those that are idle."""

from __future__ import annotations

from pathlib import Path

import pytest

from handler_host.channel.frames import Pong
from handler_host.channel.pongs import Pongs, used_share
from handler_host.lifecycle.processor_load import ProcessorTimes, idle_processors, read_processor_times


def test_share_of_a_worker() -> None:
    assert used_share(Pong(1, 0, 3.0, 100.0), Pong(2, 0, 4.5, 102.0)) == 0.75
    assert used_share(Pong(1, 0, 3.0, 100.0), Pong(2, 0, 3.0, 100.0)) == 0.0


def test_share_over_a_heartbeat() -> None:
    pongs = Pongs()
    assert pongs.used_share is None
    for sequence, (cpu_s, at_s) in enumerate([(1.0, 10.0), (3.0, 15.0), (3.1, 15.2)]):
        pongs.add(Pong(sequence, 0, cpu_s, at_s))
    assert pongs.used_share == pytest.approx(2.1 / 5.2)


@pytest.mark.parametrize(
    ("first", "last", "idle"),
    [
        (ProcessorTimes(0.0, 10.0), ProcessorTimes(2.0, 13.0), 1.5),
        (ProcessorTimes(0.0, 10.0, 5.0, 1.0), ProcessorTimes(2.0, 13.0, 6.8, 1.0), 0.1),
        (ProcessorTimes(0.0, 10.0, 5.0, 4.0), ProcessorTimes(2.0, 11.0, 6.0, 4.0), 0.5),
    ],
    ids=["machine", "the quota is used up", "the machine is busier than the quota"],
)
def test_idle_processors(first: ProcessorTimes, last: ProcessorTimes, idle: float) -> None:
    assert idle_processors(first, last, 1.0) == pytest.approx(idle)


def test_idle_processors_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert idle_processors(ProcessorTimes(0.0, None), ProcessorTimes(2.0, None), 1.5) == 2.5


def test_times_of_a_machine_and_of_a_quota(tmp_path: Path) -> None:
    assert read_processor_times(tmp_path).idle_s is None
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    write_group(tmp_path, "/")
    (tmp_path / "proc/stat").write_text("cpu  100 0 100 1000 200 0 0 0 0 0\ncpu0 100 0 100 1000 200 0 0 0 0 0\n")
    (group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (group / "cpu.max").write_text("max 100000\n")
    times = read_processor_times(tmp_path)
    assert (times.idle_s, times.group_s, times.quota) == (12.0, None, None)
    (group / "cpu.max").write_text("150000 100000\n")
    times = read_processor_times(tmp_path)
    assert (times.group_s, times.quota) == (2.5, 1.5)


def test_quota_of_a_group_that_contains_the_own_one(tmp_path: Path) -> None:
    """A service of systemd, or a host started in a shell of a container, is in a group below the one with the quota."""
    write_group(tmp_path, "/pod/host")
    pod = tmp_path / "sys/fs/cgroup/pod"
    (pod / "host").mkdir(parents=True)
    (pod / "host/cpu.max").write_text("max 100000\n")
    (pod / "cpu.max").write_text("50000 100000\n")
    (pod / "cpu.stat").write_text("usage_usec 7000000\n")
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("200000 100000\n")
    times = read_processor_times(tmp_path)
    assert (times.group_s, times.quota) == (7.0, 0.5)


def write_group(root: Path, group: str) -> None:
    """Write where control groups are mounted, and the one that this process is in."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{group}\n")
    (root / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")


def test_idle_time_of_the_processors_that_the_host_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    idle = {"cpu": 6000, "cpu0": 1000, "cpu1": 2000, "cpu2": 3000}
    lines = [f"{name}  100 0 100 {ticks} 100 0 0 0 0 0" for name, ticks in idle.items()]
    (tmp_path / "proc/stat").write_text("\n".join([*lines, "intr 1 2 3"]))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 2})
    assert read_processor_times(tmp_path).idle_s == 42.0
    # In a container whose /proc/stat numbers its processors from 0, the machine's numbers are not in it.
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {2, 7, 8})
    assert read_processor_times(tmp_path).idle_s == 61.0
