"""Race case 25 with a real OOM kill, and the real limit: the host in a control group of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support import WORKERS, control_group, gone, install_plugin, until, within

pytestmark = pytest.mark.alone

MB = 1024**2
ADMIN = "the-admin-token"


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group of the kernel."""
    with control_group("memory", "memory.limit_in_bytes", 400 * MB) as path:
        yield path


class Limited:
    """The host as a process in the group."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {ADMIN}"} if path.startswith("/admin") else {}
        async with self._session.request(method, self._url + path, json=body, headers=headers) as response:
            return response.status, json.loads(await response.read())

    async def memory(self) -> Any:
        return (await self.ask("GET", "/admin/memory"))[1]

    @contextlib.asynccontextmanager
    async def stream(self, name: str, body: Any) -> AsyncIterator[aiohttp.StreamReader]:
        path = f"{self._url}/v1/handlers/{name}/stream"
        async with self._session.post(path, json=body, headers={"Accept": "text/event-stream"}) as response:
            assert response.status == 200
            yield response.content


@contextlib.asynccontextmanager
async def limited(group: Path, root: Path, memory: str, *, control_groups: bool = False) -> AsyncIterator[Limited]:
    """Run the host in the group, with two puppets."""
    (root / "control").mkdir()
    for name in ("puppet", "other"):
        install_plugin(root, name, (WORKERS / "puppet.py").read_text(), attribute="Puppet")
    config = f'[memory]\n{memory}\n[defaults]\npreload = []\n[catalog]\nroots = ["{root}"]\ninclude_sys_path = false\n'
    config += "[workers]\ncontrol_groups = true\n" if control_groups else ""
    config += "".join(f'[handlers.{name}]\ncontrol = "{root}/control"\n' for name in ("puppet", "other"))
    (root / "host.toml").write_text(config)
    # The shell enters the group before it starts the host, so that all its memory is counted there.
    enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    command = [sys.executable, "-m", "handler_host", "serve", "--port", "0", "--config", str(root / "host.toml")]
    with (root / "log").open("w") as log:
        process = subprocess.Popen(
            ["sh", "-c", enter, "sh", *command],
            env=os.environ | {"HANDLER_HOST_ADMIN_TOKEN": ADMIN, "HANDLER_HOST_DATA_DIR": str(root / "data")},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = await within(asyncio.to_thread(process.stdout.readline))
        assert line.startswith("ready "), (root / "log").read_text()
        async with aiohttp.ClientSession() as session:
            yield Limited(line.split()[1], session)
        process.send_signal(signal.SIGTERM)
        await within(asyncio.to_thread(process.wait))
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        # Its reservation is released.
        await until(lambda: not (group / "cgroup.procs").read_text().strip())


async def test_case_25_after_an_oom_kill_more_is_reserved(group: Path, tmp_path: Path) -> None:
    # The host gets a limit that is too high, so that the kernel's is reached.
    async with limited(group, tmp_path, 'limit = "8GB"') as host:
        for name in ("go", "end"):
            os.mkfifo(tmp_path / "control" / name)
        await host.ask("POST", "/admin/handlers/puppet/load")
        before = (await host.memory())["handlers"]["puppet"]
        # Busy: an idle one might be evicted for the pressure that a kill reports.
        async with (
            host.stream("other", {"steps": ["", "wait:end"]}) as others,
            host.stream("puppet", {"steps": ["", "wait:go", "allocate:600"]}) as events,
        ):
            assert await within(others.readuntil(b"\n\n"))
            assert await within(events.readuntil(b"\n\n"))
            other = (await host.memory())["workers"]["other"]["pid"]
            await within(asyncio.to_thread((tmp_path / "control" / "go").write_text, "now"))
            rest = (await within(events.read())).decode()
            assert not gone(other)
            await within(asyncio.to_thread((tmp_path / "control" / "end").write_text, "now"))
            whole = (await within(others.read())).decode()
        # The other worker lives, with its dispatches in flight, and so does the host.
        assert '{"number":1}' in whole
        assert "event: end" in whole
        # The status was sent before: the stream ends with an error event.
        assert "event: error" in rest
        assert "handler_crashed" in rest
        assert "out of memory" in rest
        report = await host.memory()
        after = report["handlers"]["puppet"]
        assert after["last_exit"]["kind"] == "out of memory"
        assert after["last_exit"]["signal"] == signal.SIGKILL
        assert after["out_of_memory"] == 1
        assert after["expected"] > 200 * MB > before["expected"]
        assert report["pressure"]["kills"] == 1
        assert report["pressure"]["kills_source"] == str(group / "memory.oom_control")
        # The next dispatch gets a new worker.
        status, response = await host.ask("POST", "/v1/handlers/puppet/echo", {})
        assert (status, response["generation"]) == (200, 2)


async def test_case_25_an_activation_killed_by_the_kernel_says_so(group: Path, tmp_path: Path) -> None:
    async with limited(group, tmp_path, 'limit = "8GB"') as host:
        config = (tmp_path / "puppet" / "__init__.py").read_text()
        (tmp_path / "puppet" / "__init__.py").write_text(f"{config}\nKEPT = b'x' * (600 * 1024**2)\n")
        status, response = await host.ask("POST", "/v1/handlers/puppet/echo", {})
        assert (status, response["error"]["code"]) == (502, "activation_failed")
        assert "out of memory" in response["error"]["message"]
        assert (await host.memory())["handlers"]["puppet"]["last_exit"]["kind"] == "out of memory"


async def test_the_kernel_kills_a_worker_with_its_daemon(group: Path, tmp_path: Path) -> None:
    async with limited(group, tmp_path, 'headroom = "10%"', control_groups=True) as host:
        for name in ("spawn", "child", "go"):
            os.mkfifo(tmp_path / "control" / name)
        steps = ["", "wait:spawn", "children", "wait:go", "allocate:380"]
        async with host.stream("puppet", {"steps": steps}) as events:
            await within(asyncio.to_thread((tmp_path / "control" / "spawn").write_text, "now"))
            child = int(await within(asyncio.to_thread((tmp_path / "control" / "child").read_text)))
            worker = (await host.memory())["workers"]["puppet"]["pid"]
            workers = group / "handler-host-workers"
            assert int((workers / "memory.limit_in_bytes").read_text()) == 360 * MB
            assert {worker, child} <= set(map(int, (workers / str(worker) / "cgroup.procs").read_text().split()))
            await within(asyncio.to_thread((tmp_path / "control" / "go").write_text, "now"))
            assert "out of memory" in (await within(events.read())).decode()
        exit = (await host.memory())["handlers"]["puppet"]["last_exit"]
        assert (exit["kind"], exit["signal"]) == ("out of memory", signal.SIGKILL)
        assert gone(child)
        assert not (workers / str(worker)).exists()
        # The group of the host never reached its limit.
        assert "oom_kill 0" in (group / "memory.oom_control").read_text()
        assert (await host.ask("POST", "/v1/handlers/puppet/echo", {}))[1]["generation"] == 2
    assert not workers.exists()


async def test_the_limit_is_that_of_the_group_and_follows_its_changes(group: Path, tmp_path: Path) -> None:
    async with limited(group, tmp_path, 'headroom = "10%"') as host:
        report = await host.memory()
        assert (report["limit"], report["limit_source"]) == (400 * MB, "cgroup v1")
        assert report["limit_path"] == str(group / "memory.limit_in_bytes")
        assert report["usable"] == 360 * MB
        assert (await host.ask("POST", "/v1/handlers/other/echo", {}))[0] == 200
        # Less than the usage: the idle handler is evicted.
        (group / "memory.limit_in_bytes").write_text(str(200 * MB))
        report = await host.memory()
        assert report["limit"] == 200 * MB
        assert "the memory limit has changed" in (tmp_path / "log").read_text()
        status, response = await host.ask("POST", "/v1/handlers/puppet/echo", {})
        assert status == 200, response


async def test_memory_of_other_processes_in_the_group_is_not_available(group: Path, tmp_path: Path) -> None:
    async with limited(group, tmp_path, 'headroom = 0\nwait = "100ms"\ndefault_estimate = "120MB"') as host:
        free = (await host.memory())["room"]
        script = "import sys; kept = b'x' * (310 * 1024**2); print('ready', flush=True); sys.stdin.read()"
        with subprocess.Popen(
            ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", sys.executable, "-S", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as neighbour:
            assert neighbour.stdout is not None
            await within(asyncio.to_thread(neighbour.stdout.readline))
            report = await host.memory()
            assert report["others"] > 300 * MB
            assert report["room"] < free - 250 * MB
            status, response = await host.ask("POST", "/v1/handlers/puppet/echo", {})
            assert (status, response["error"]["code"]) == (503, "memory_budget")
            neighbour.communicate()
        async with asyncio.timeout(30):
            # The kernel updates its sums every two seconds.
            while (await host.memory())["others"] > 100 * MB:  # noqa: ASYNC110 - no event reports it
                await asyncio.sleep(0.1)
        assert (await host.ask("POST", "/v1/handlers/puppet/echo", {}))[0] == 200
