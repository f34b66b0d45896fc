"""Children of a process, as the kernel lists them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from handler_host.workers.child_processes import child_states

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

RENAMED = """
import sys
with open("/proc/self/comm", "wb") as file:
    file.write(b"\\xff) Z 1 ")
print("renamed", flush=True)
sys.stdin.read()
"""


def test_a_name_of_any_bytes_hides_no_child() -> None:
    with subprocess.Popen([sys.executable, "-c", RENAMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"renamed\n"
        assert child_states()[child.pid] in (b"S", b"R")
        assert child.stdin is not None
        child.stdin.close()
        deadline = time.monotonic() + 10
        while child_states()[child.pid] != b"Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert child.pid not in child_states()
