"""The host as a process of its own: its first line, its signals, its refusals to start."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from handler_host._internal.threads import THREADS
from tests.integration.http.serving import events
from tests.support import LIMIT, Control, children_of, gone, install_plugin, install_puppet, until, within

PROGRAM = """
import os, sys
from pathlib import Path
from handler_host.config.loader import load_config
from handler_host.plugin.errors import ConfigError
from handler_host.server import run
try:
    sys.exit(run(load_config(Path(sys.argv[1]), os.environ).config))
except ConfigError as error:
    sys.exit(error.message)
"""

MEETING = f"""
import threading
from handler_host.plugin import operation

class Handler:
    barrier = threading.Barrier({THREADS + 1})

    @operation
    def meet(self, request: dict) -> dict:
        self.barrier.wait(20)
        return {{}}
"""


class Process:
    """A host in a process of its own."""

    def __init__(self, root: Path, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.control = Control(root / "control")
        self.url = ""

    async def output(self) -> tuple[str, str]:
        """Return what it still writes, when it has ended."""
        out, errors = await within(self.process.communicate())
        return out.decode(), errors.decode()


@contextlib.asynccontextmanager
async def started(root: Path, *lines: str, environment: dict[str, str] | None = None) -> AsyncIterator[Process]:
    """Start the host with the plugins in ``root``; at the end it is gone, with all it has started."""
    (root / "host.toml").write_text(
        "\n".join(
            [
                *(lines or ["[server]", "port = 0"]),
                "[catalog]",
                f'roots = ["{root}"]',
                "include_sys_path = false",
                "[defaults]",
                "preload = []",
                "stop_grace = 1",
                "[handlers.puppet]",
                f'control = "{root}/control"',
            ]
        )
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        PROGRAM,
        str(root / "host.toml"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield Process(root, process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@contextlib.asynccontextmanager
async def ready(root: Path, *lines: str, environment: dict[str, str] | None = None) -> AsyncIterator[Process]:
    """Start the host and wait for its first line."""
    async with started(root, *lines, environment=environment) as host:
        assert host.process.stdout is not None
        line = (await within(host.process.stdout.readline())).decode()
        assert line.startswith("ready http://127.0.0.1:"), line
        host.url = line.split()[1]
        yield host


async def not_ready(session: aiohttp.ClientSession, host: Process) -> None:
    """Wait until the host says that it is not ready."""
    async with asyncio.timeout(LIMIT):
        while True:
            async with session.get(f"{host.url}/health/ready") as response:
                if response.status == 503:
                    return


async def test_the_first_line_has_the_address_and_no_token(tmp_path: Path) -> None:
    async with ready(tmp_path) as host:
        async with aiohttp.ClientSession() as session, session.get(f"{host.url}/health/ready") as response:
            assert response.status == 200
        assert host.process.stderr is not None
        line = ""
        while not line.startswith("admin token of this run: "):
            line = (await within(host.process.stderr.readline())).decode()
            assert line, "the made token is not shown"
        # Not in the line itself: standard error is the log here, not a terminal.
        file = Path(line.removeprefix("admin token of this run: in the file ").split()[0])
        assert file.stat().st_mode & 0o777 == 0o600
        token = file.read_text().strip()
        assert len(token) > 20
        assert token not in line
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{host.url}/admin/handlers") as response,
        ):
            assert response.status == 200
        host.process.send_signal(signal.SIGTERM)
        out, errors = await host.output()
        assert host.process.returncode == 0
        assert out == ""
        assert token not in errors
        assert "no API keys" in errors


async def test_a_host_without_a_state_file_writes_no_token(tmp_path: Path) -> None:
    environment = {"HANDLER_HOST_MEMORY__STATE_FILE": "/dev/null"}
    async with ready(tmp_path, environment=environment) as host:
        assert host.process.stderr is not None
        line = ""
        while not line.startswith("admin token of this run: "):
            line = (await within(host.process.stderr.readline())).decode()
            assert line, "the message is missing"
        assert "not shown, as there is neither a terminal nor a state file" in line


async def test_given_keys_are_not_shown_anywhere(tmp_path: Path) -> None:
    environment = {"HANDLER_HOST_ADMIN_TOKEN": "operator-secret", "HANDLER_HOST_API_KEYS": "consumer-secret"}
    async with ready(tmp_path, environment=environment) as host:
        headers = {"Authorization": "Bearer consumer-secret"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(f"{host.url}/v1/handlers") as response,
        ):
            assert response.status == 200
        host.process.send_signal(signal.SIGTERM)
        out, errors = await host.output()
        assert "secret" not in out + errors
        assert "admin token" not in errors
        assert "no API keys" not in errors


async def test_without_keys_the_host_does_not_serve_other_machines(tmp_path: Path) -> None:
    async with started(tmp_path, "[server]", 'host = "0.0.0.0"', "port = 0") as host:
        out, errors = await host.output()
        assert host.process.returncode == 1
        assert out == ""
        assert "0.0.0.0" in errors
        assert "HANDLER_HOST_API_KEYS" in errors
        assert "Traceback" not in errors


async def test_with_keys_it_does(tmp_path: Path) -> None:
    lines = ("[server]", 'host = "0.0.0.0"', "port = 0")
    async with ready(tmp_path, *lines, environment={"HANDLER_HOST_API_KEYS": "some-key-of-some-consumer"}) as host:
        host.process.send_signal(signal.SIGINT)
        await host.output()
        assert host.process.returncode == 0


async def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with started(tmp_path, "[server]", f"port = {port}") as host:
            out, errors = await host.output()
            assert host.process.returncode == 1
            assert out == ""
            assert errors.count(str(port)) == 1
            assert f"127.0.0.1:{port}" in errors
            assert errors.lower().count("address already in use") == 1
            assert "Traceback" not in errors
            # A host that never served has no token to show.
            assert "admin token" not in errors


async def test_case_34_sigterm_refuses_new_work_and_lets_a_stream_end(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with ready(tmp_path) as host, aiohttp.ClientSession() as session:
        host.control.make("more", "started")
        path = f"{host.url}/v1/handlers/puppet"
        sse = {"Accept": "text/event-stream"}
        async with session.post(f"{path}/stream", json={"steps": ["", "wait:more"]}, headers=sse) as stream:
            await within(stream.content.readuntil(b"\n\n"))
            children = children_of(host.process.pid)
            assert children
            host.process.send_signal(signal.SIGTERM)

            await not_ready(session, host)
            async with session.get(f"{host.url}/health/live") as response:
                assert response.status == 200
            async with session.post(f"{path}/echo", json={}) as refused:
                assert (refused.status, (await refused.json())["error"]["code"]) == (503, "draining")
            await host.control.signal("more")
            assert events(await within(stream.text())) == [("message", {"number": 1}), ("end", {})]
        await host.output()
        assert host.process.returncode == 0
        await until(lambda: all(map(gone, children)))


async def test_a_second_signal_ends_at_once_what_is_under_way(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with ready(tmp_path) as host, aiohttp.ClientSession() as session:
        sse = {"Accept": "text/event-stream"}
        body = {"steps": ["", "forever"]}
        async with session.post(f"{host.url}/v1/handlers/puppet/stream", json=body, headers=sse) as stream:
            await within(stream.content.readuntil(b"\n\n"))
            children = children_of(host.process.pid)
            host.process.send_signal(signal.SIGTERM)
            await not_ready(session, host)
            host.process.send_signal(signal.SIGTERM)
            assert events(await within(stream.text()))[-1][0] == "error"
        await host.output()
        assert host.process.returncode == 0
        await until(lambda: all(map(gone, children)))


@pytest.mark.parametrize("module", ["handler_host.server", "handler_host.app"])
async def test_the_server_imports_nothing_that_it_can_do_without(module: str) -> None:
    heavy = {"pydantic", "psutil", "argparse", "difflib", "importlib.metadata", "openai", "http.client"}
    program = f"import sys, {module}; print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    out, _ = await within(process.communicate())
    bare = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import sys; from aiohttp import web; print(*sys.modules)", stdout=asyncio.subprocess.PIPE
    )
    already, _ = await within(bare.communicate())
    assert not heavy & (set(out.decode().split()) - set(already.decode().split()))


async def test_after_sigterm_the_host_serves_for_the_delay(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    lines = ("[server]", "port = 0", "shutdown_delay = 60")
    async with ready(tmp_path, *lines) as host, aiohttp.ClientSession() as session:
        echo = f"{host.url}/v1/handlers/puppet/echo"
        async with session.post(echo, json={"a": 1}) as response:
            assert (response.status, response.headers.get("Connection")) == (200, None)
        host.process.send_signal(signal.SIGTERM)
        await not_ready(session, host)
        async with session.post(echo, json={"a": 1}) as response:
            assert (response.status, response.headers.get("Connection")) == (200, "close")
        headers = {"Accept": "text/event-stream"}
        async with session.post(echo, json={"a": 1}, headers=headers) as response:
            assert (response.status, response.headers.get("Connection")) == (200, "close")
            await response.read()
        host.process.send_signal(signal.SIGTERM)  # the second signal ends the delay
        await host.output()
        assert host.process.returncode == 0


async def test_the_port_of_the_platform_is_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with ready(tmp_path, "[server]", environment={"PORT": str(port)}) as host:
        assert host.url == f"http://127.0.0.1:{port}"


async def test_functions_of_inline_handlers_wait_for_each_other(tmp_path: Path) -> None:
    """They run in the threads of the host's event loop: as many as asyncio has, not only those that the host needs."""
    install_plugin(tmp_path, "meeting", MEETING)
    lines = ("[server]", "port = 0", "[handlers.meeting]", 'isolation = "inline"')
    async with ready(tmp_path, *lines) as host, aiohttp.ClientSession() as session:

        async def post() -> int:
            async with session.post(f"{host.url}/v1/handlers/meeting/meet", json={}) as response:
                return response.status

        assert await within(asyncio.gather(*(post() for _ in range(THREADS + 1)))) == [200] * (THREADS + 1)


async def test_case_39_at_the_limit_of_processes_it_does_not_start(tmp_path: Path, few_processes: Path) -> None:
    (tmp_path / "host.toml").write_text("[server]\nport = 0\n")
    command = ["sh", "-c", f'echo $$ > {few_processes}/cgroup.procs; exec "$@"', "sh", sys.executable, "-m"]
    process = await asyncio.create_subprocess_exec(
        *command, "handler_host", "serve", "--config", str(tmp_path / "host.toml"), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await within(process.communicate())
    assert process.returncode == 2
    (line,) = errors.decode().splitlines()
    assert "the system refused a thread; raise ulimit -u" in line


async def test_case_39_long_bodies_are_refused_at_the_process_limit(tmp_path: Path, few_processes: Path) -> None:
    body = json.dumps({"model": "unknown", "messages": [{"role": "user", "content": "x" * 2_000_000}]}).encode()
    async with ready(tmp_path) as host, aiohttp.ClientSession() as session:

        async def post() -> str:
            headers = {"Content-Type": "application/json"}
            async with session.post(
                f"{host.url}/v1/chat/completions", data=io.BytesIO(body), headers=headers
            ) as response:
                error: str = (await response.json())["error"]["code"]
                return f"{response.status} {error}"

        (few_processes / "cgroup.procs").write_text(str(host.process.pid))
        assert [await post() for _ in range(2)] == ["503 out_of_resources"] * 2
        host.process.send_signal(signal.SIGHUP)
        assert host.process.stderr is not None
        while "configuration re-read" not in (line := (await within(host.process.stderr.readline())).decode()):
            assert "defect" not in line
        (few_processes / "pids.max").write_text("max")
        assert await post() == "404 model_not_found"
        (few_processes / "pids.max").write_text("1")
        host.process.terminate()
        _, errors = await host.output()
        assert "Traceback" not in errors
        assert host.process.returncode == 0
