"""The memory of a process is read from the kernel, or measured otherwise, and the measure is named."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handler_host.memory.procfs import read_memory, read_other_memory
from tests.support import gone

MB = 1024**2
linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system has no PSS to read")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[str]]:
    """A process that has touched 30 MB, and waits."""
    script = "import sys; kept = b'x' * (30 * 1024**2); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@linux
def test_a_process_uses_the_pages_that_it_has_touched(sleeper: subprocess.Popen[str]) -> None:
    memory = read_memory(sleeper.pid)
    assert memory is not None
    assert memory.measure == "pss"
    assert 30 * MB < memory.uss <= memory.pss <= memory.rss < 80 * MB


@linux
def test_pages_that_are_shared_are_split_between_their_users() -> None:
    # given: a parent that has touched 30 MB and a child that shares them
    script = (
        "import os, sys; kept = b'x' * (30 * 1024**2); child = os.fork()\n"
        "if child == 0: os.read(0, 1); os._exit(0)\n"
        "print(child, flush=True); sys.stdin.read(); os.waitpid(child, 0)"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        child = read_memory(int(process.stdout.readline()))
        process.communicate()
    # then
    assert child is not None
    assert child.rss > 30 * MB
    assert child.uss < 15 * MB
    assert 15 * MB < child.pss < 25 * MB


@linux
def test_pages_of_a_file_are_droppable_until_they_are_changed(tmp_path: Path) -> None:
    size = 24 * MB
    path = tmp_path / "weights"
    path.write_bytes(b"x" * size)
    script = (
        "import mmap, sys; file = open(sys.argv[1], 'rb'); pages = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE)\n"
        "sum(pages[offset] for offset in range(0, len(pages), 4096)); print('read', flush=True); sys.stdin.readline()\n"
        "pages[: len(pages) // 2] = bytes(len(pages) // 2); print('written', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-S", "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        clean = read_memory(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        changed = read_memory(process.pid)
        process.communicate()
    assert clean is not None
    assert changed is not None
    if clean.anonymous > size:
        pytest.skip("files of the tests are in memory, which the kernel cannot drop")
    assert size <= clean.droppable <= clean.pss - clean.anonymous
    assert changed.droppable == pytest.approx(clean.droppable - size / 2, abs=2 * MB)
    assert changed.anonymous == pytest.approx(clean.anonymous + size / 2, abs=2 * MB)


def test_a_process_that_is_gone_uses_nothing(sleeper: subprocess.Popen[str]) -> None:
    sleeper.kill()
    sleeper.wait()
    assert gone(sleeper.pid)
    assert read_memory(sleeper.pid) is None
    assert read_other_memory(sleeper.pid) is None


@linux
def test_a_zombie_uses_nothing_and_needs_no_other_measure(sleeper: subprocess.Popen[str]) -> None:
    # given: it has exited and is not reaped
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    # then
    reading = f"print(read_memory({sleeper.pid}), 'psutil' in sys.modules)"
    script = f"import sys; from handler_host.memory.procfs import read_memory; {reading}"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "None False\n"


def test_the_next_best_measure_is_uss(sleeper: subprocess.Popen[str]) -> None:
    memory = read_other_memory(sleeper.pid)
    assert memory is not None
    assert memory.measure == "uss"
    assert 30 * MB < memory.pss == memory.uss <= memory.rss


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_for_processes_of_other_users_it_is_rss(sleeper: subprocess.Popen[str], tmp_path: Path) -> None:
    """Another user must not read the page figures of root's processes."""
    paths = [path for path in sys.path if path]
    script = (
        f"import os, sys; sys.path[:0] = {paths!r}\n"
        "import handler_host.memory.procfs, psutil\n"  # loaded while it may read them
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"print(handler_host.memory.procfs.read_memory({sleeper.pid}))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert "measure='rss'" in shown.stdout, shown.stderr
