"""Control groups of workers, of the kernel: v2 without the controller of memory where that belongs to v1."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handler_host.cli.main import main
from handler_host.config import MemoryConfig
from handler_host.memory.cgroups import HOST_GROUP, WORKERS_GROUP, control_groups, find_oom_group
from handler_host.workers.control_groups import ControlGroups
from handler_host.workers.launchers.exec import ExecLauncher
from handler_host.workers.launchers.grouped import GroupedLauncher
from tests.support import ended, until, within

SCRIPT = """
import json, os, subprocess, sys, time
from pathlib import Path
from handler_host.memory.cgroups import control_groups
from handler_host.workers.control_groups import ControlGroups

base, controller = Path(sys.argv[1]), sys.argv[2]
groups = ControlGroups("cgroup v2", base)
result = {}
try:
    groups.open(controller)
except OSError as error:
    result["error"] = str(error)
else:
    # A worker whose daemon has a session and a parent of its own.
    daemon = "import os, time; os.fork() and os._exit(0); os.setsid(); print(os.getpid(), flush=True); time.sleep(60)"
    source = f"import subprocess, sys, time; input(); subprocess.Popen([sys.executable, '-c', {daemon!r}])"
    source += "; time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    group = groups.add(worker.pid, 2**30, None)
    print("go", file=worker.stdin, flush=True)
    result["daemon"] = int(worker.stdout.readline())
    # The parent of the daemon may still have to exit.
    while len(members := (group / "cgroup.procs").read_text().split()) > 2:
        time.sleep(0.01)
    result["members"] = sorted(map(int, members))
    result["host"] = Path("/proc/self/cgroup").read_text()
    result["seen"] = [str(path) for version, paths in control_groups() if version == "cgroup v2" for path in paths[:1]]
    result["kills"] = groups.remove(group)
    result["worker"] = worker.wait()
    groups.close()
result["left"] = sorted(path.name for path in base.iterdir() if path.is_dir())
result["after"] = Path("/proc/self/cgroup").read_text()
print(json.dumps(result))
"""


@pytest.fixture
def base() -> Iterator[Path]:
    """A group of v2 whose parent passes a controller on."""
    mounts = [directories[-1] for version, directories in control_groups() if version == "cgroup v2"]
    if not mounts:
        pytest.skip("no control groups v2 are mounted here")
    controllers = (mounts[0] / "cgroup.controllers").read_text().split()
    passed_on = mounts[0] / "cgroup.subtree_control"
    before = passed_on.read_text().split()
    path = mounts[0] / f"handler-host-test-{secrets.token_hex(4)}"
    try:
        passed_on.write_text(f"+{controllers[-1]}")
        path.mkdir()
    except (OSError, IndexError) as error:
        pytest.skip(f"no control group v2 with a controller can be made here: {error}")
    yield path
    path.rmdir()
    if controllers[-1] not in before:
        passed_on.write_text(f"-{controllers[-1]}")


def base_of_v1() -> Path:
    """Return the group of v1 that this process is in; skip the test if it can have no child groups."""
    bases = {version: directories[0] for version, directories in control_groups()}
    if not os.access(bases.get("cgroup v1", "nowhere"), os.W_OK):
        pytest.skip("no control groups v1 can be made here")
    return bases["cgroup v1"]


def run_inside(base: Path) -> Any:
    """Run the script as a process of the group, and return its result."""
    controller = (base / "cgroup.controllers").read_text().split()[-1]
    command = ["sh", "-c", f'echo $$ > {base}/cgroup.procs && exec "$@"', "sh"]
    command += [sys.executable, "-c", SCRIPT, str(base), controller]
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


def test_a_worker_ends_with_its_daemon_and_the_host_stays(base: Path) -> None:
    result = run_inside(base)
    assert len(result["members"]) == 2
    assert result["daemon"] in result["members"]
    assert ended(result["daemon"])
    assert (result["worker"], result["kills"]) == (-9, 0)
    assert f"/{base.name}/{HOST_GROUP}\n" in result["host"]
    # Limits, kills and pressure are still read from the group that holds the workers, too.
    assert result["seen"] == [str(base)]
    assert result["left"] == []
    assert f"/{base.name}\n" in result["after"]


def test_with_another_process_in_the_group_nothing_changes(base: Path) -> None:
    neighbour = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    with neighbour:
        (base / "cgroup.procs").write_text(str(neighbour.pid))
        result = run_inside(base)
        neighbour.communicate(b"\n")
    assert "Device or resource busy" in result["error"]
    assert result["left"] == []
    assert f"/{base.name}\n" in result["after"]


def test_workers_with_own_groups_are_not_killed_with_the_host(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"0::/pod/{HOST_GROUP}\n")
    (tmp_path / "proc/self/mountinfo").write_text("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    pod = tmp_path / "sys/fs/cgroup/pod"
    (pod / WORKERS_GROUP).mkdir(parents=True)
    (pod / "memory.oom.group").write_text("1\n")
    assert find_oom_group(tmp_path) is None
    (pod / WORKERS_GROUP).rmdir()
    assert find_oom_group(tmp_path) == pod / "memory.oom.group"


def test_doctor_says_whether_workers_get_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "host.toml").write_text("[workers]\ncontrol_groups = true\n[catalog]\ninclude_sys_path = false\n")
    main(["doctor", "--config", str(tmp_path / "host.toml"), "--json"])
    findings = [
        finding for finding in json.loads(capsys.readouterr().out)["findings"] if "control group" in finding["text"]
    ]
    base = base_of_v1()
    (finding,) = findings
    assert (finding["level"], finding["place"]) == ("ok", "workers")
    assert finding["text"].endswith(f"(cgroup v1) in {base / WORKERS_GROUP}")


def test_without_the_controller_of_memory_none_are_made(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io\n")
    with pytest.raises(OSError, match="the controller memory is not available"):
        ControlGroups("cgroup v2", tmp_path).open()
    assert [path.name for path in tmp_path.iterdir()] == ["cgroup.controllers"]


def test_controllers_that_were_enabled_before_stay_so(tmp_path: Path) -> None:
    """As in the root group, where the system has enabled them for all services."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    passed_on = tmp_path / "cgroup.subtree_control"
    passed_on.write_text("cpu memory\n")
    groups = ControlGroups("cgroup v2", tmp_path)
    groups.open()
    groups.close()
    assert passed_on.read_text() == "cpu memory\n"


def test_a_host_that_stops_leaves_the_workers_of_another_one() -> None:
    """Both were started in the same group; the groups that a killed host has left are removed."""
    base = base_of_v1() / f"handler-host-test-{secrets.token_hex(4)}"
    (base / WORKERS_GROUP / "4711").mkdir(parents=True)
    hosts = [ControlGroups("cgroup v1", base) for _ in range(2)]
    workers = [subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE) for _ in hosts]
    try:
        for host, worker in zip(hosts, workers, strict=True):
            host.open()
            host.add(worker.pid, 2**30, None)
        hosts[0].close()
        assert workers[0].wait(10) == -9
        assert workers[1].poll() is None
    finally:
        hosts[1].close()
        for worker in workers:
            worker.kill()
            worker.communicate()
        base.rmdir()


class SlowGroups(ControlGroups):
    """Groups of which one is made only when the test allows it."""

    def __init__(self, base: Path) -> None:
        super().__init__("cgroup v1", base)
        self.pids: list[int] = []
        self.go_on = threading.Event()

    def add(self, pid: int, all_workers: int, limit: int | None) -> Path:
        self.pids.append(pid)
        self.go_on.wait(10)
        return super().add(pid, all_workers, limit)


@pytest.mark.parametrize("is_early", [True, False], ids=["before the exit", "after the exit"])
async def test_cancelled_launch_leaves_no_process_and_no_group(is_early: bool) -> None:
    base = base_of_v1() / f"handler-host-test-{secrets.token_hex(4)}"
    base.mkdir()
    groups = SlowGroups(base)
    groups.open()
    try:
        launcher = GroupedLauncher(ExecLauncher(), groups, MemoryConfig(), None)
        launching = asyncio.create_task(launcher.launch("puppet", 1, {}))
        await until(lambda: bool(groups.pids))
        (pid,) = groups.pids
        if is_early:
            groups.go_on.set()
        launching.cancel()
        if not is_early:
            await until(lambda: ended(pid))
            groups.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await within(launching)
        await until(lambda: ended(pid))
        assert [path.name for path in groups.workers.iterdir() if path.is_dir()] == []
    finally:
        groups.close()
        base.rmdir()
