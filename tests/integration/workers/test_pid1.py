"""The host as PID 1 of a container: it reaps the orphans that it inherits, and only those."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import LIMIT, children_of, ended, install_plugin

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
ORPHANS = """
import os, subprocess
from handler_host.plugin import operation

class Handler:
    @operation
    async def orphan(self) -> int:
        \"\"\"Start a process in a session of its own, whose parent exits at once.\"\"\"
        return subprocess.call(["setsid", "sh", "-c", "sh -c 'sleep 0.3; exit 3' &"])

    @operation
    async def crash(self) -> None:
        os._exit(7)
"""


def can_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not can_unshare(), reason="needs the right to create PID namespaces")


class Container:
    """The host as PID 1 of a PID namespace of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.url = process.stdout.readline().split()[1]
        (self.pid,) = children_of(process.pid)

    def request(self, path: str, body: bytes | None = None) -> Any:
        """Send a request as operator; return the JSON of the response, also of an error."""
        headers = {"Authorization": "Bearer token", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def zombies(self) -> list[int]:
        """Return the exited children of the host that are not reaped."""
        return [pid for pid in children_of(self.pid) if ended(pid)]


@pytest.fixture(params=["process", "exec"])
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Container]:
    install_plugin(tmp_path, "parent", ORPHANS)
    (tmp_path / "host.toml").write_text(
        f'[server]\nport = 0\n[memory]\npressure = "off"\n[catalog]\nroots = ["{tmp_path}"]\ninclude_sys_path = false\n'
        f'[defaults]\npreload = []\nisolation = "{request.param}"\n'
    )
    command = [*UNSHARE, sys.executable, "-m", "handler_host", "serve", "--config", str(tmp_path / "host.toml")]
    environ = {**os.environ, "HANDLER_HOST_ADMIN_TOKEN": "token"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ, text=True)
    try:
        yield Container(process)
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestOrphans:
    def test_of_a_worker(self, container: Container) -> None:
        container.request("/v1/handlers/parent/orphan", b"{}")
        time.sleep(0.5)
        wait_for(lambda: not container.zombies())

    def test_of_another_process_of_the_container(self, container: Container) -> None:
        """`docker exec` starts one whose children the host inherits."""
        command = "sh -c 'sleep 0.3; exit 3' & sh -c 'sleep 0.3' &"
        subprocess.run(["nsenter", "--target", str(container.pid), "--pid", "setsid", "sh", "-c", command], check=True)
        wait_for(lambda: len(container.zombies()) == 2)
        wait_for(lambda: not container.zombies())


def test_exit_status_of_a_worker_is_not_taken(container: Container) -> None:
    for generation in range(1, 4):
        container.request("/v1/handlers/parent/crash", b"{}")
        wait_for(lambda: container.request("/admin/handlers/parent")["last_exit"] is not None)
        last_exit = container.request("/admin/handlers/parent")["last_exit"]
        assert (last_exit["code"], last_exit["signal"], last_exit["generation"]) == (7, None, generation)
        container.request("/admin/handlers/parent/load", b"{}")


def test_sigterm_ends_it(container: Container) -> None:
    os.kill(container.pid, signal.SIGTERM)
    assert container.process.wait(LIMIT) == 0
