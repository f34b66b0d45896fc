"""SIGHUP re-reads the configuration, SIGUSR1 unloads idle handlers; neither disturbs dispatches in flight."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.http.test_server import Process, ready
from tests.support import install_puppet, within

LINES = ("[server]", "port = 0", "[log]", 'format = "json"')
TOKEN = {"HANDLER_HOST_ADMIN_TOKEN": "the-admin-token"}
ADMIN = {"Authorization": "Bearer the-admin-token"}


async def logged(host: Process, event: str) -> dict[str, Any]:
    """Return the next line of the log with this event."""
    assert host.process.stderr is not None
    while True:
        line = await within(host.process.stderr.readline())
        assert line, f"the host ended without {event!r}"
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found


def rewrite(root: Path, old: str, new: str) -> None:
    """Edit the configuration file."""
    path = root / "host.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


async def status(session: aiohttp.ClientSession, host: Process) -> dict[str, Any]:
    async with session.get(f"{host.url}/admin/handlers/puppet", headers=ADMIN) as response:
        found: dict[str, Any] = await response.json()
        return found


async def memory(session: aiohttp.ClientSession, host: Process) -> dict[str, Any]:
    async with session.get(f"{host.url}/admin/memory", headers=ADMIN) as response:
        found: dict[str, Any] = await response.json()
        return found


async def test_sighup_names_what_needs_a_restart(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with ready(tmp_path, *LINES, environment=TOKEN) as host, aiohttp.ClientSession() as session:
        before = await memory(session, host)
        rewrite(tmp_path, "preload = []", "preload = []\npin = true")
        rewrite(tmp_path, "[catalog]", '[memory]\nlimit = "1GB"\n[catalog]')
        rewrite(tmp_path, "port = 0", "port = 0\nmax_body = 1000")
        host.process.send_signal(signal.SIGHUP)
        line = await logged(host, "configuration re-read")
        assert line["applied"] == ["defaults.pin", "memory.limit"]
        assert line["needs_restart"] == ["server.max_body"]
        assert line["level"] == "warning"
        assert before["limit"] != 1024**3
        assert (await memory(session, host))["limit"] == 1024**3
        assert (await status(session, host))["pin"] is True


async def test_a_worker_keeps_its_settings_until_its_next_activation(tmp_path: Path) -> None:
    install_puppet(tmp_path)
    async with ready(tmp_path, *LINES, environment=TOKEN) as host, aiohttp.ClientSession() as session:
        path = f"{host.url}/v1/handlers/puppet/echo"
        async with session.post(path, json={}) as response:
            first = await response.json()
        rewrite(tmp_path, "[handlers.puppet]", '[handlers.puppet]\nisolation = "exec"\nat_activation = "raise"')
        host.process.send_signal(signal.SIGHUP)
        line = await logged(host, "configuration re-read")
        assert line["applied"] == ["handlers.puppet.at_activation", "handlers.puppet.isolation"]
        async with session.post(path, json={}) as response:
            assert await response.json() == first
        assert (await memory(session, host))["workers"]["puppet"]["pid"] == first["pid"]
        async with session.post(f"{host.url}/admin/handlers/puppet/unload", headers=ADMIN) as response:
            assert response.status == 200
        async with session.post(path, json={}) as response:
            assert response.status == 502
            assert "told to fail" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[defaults]", "[defaults]\nidle_aftr = 1", "did you mean 'idle_after'"),
        ("[defaults]", "[defaults", "not valid TOML"),
    ],
)
async def test_a_broken_file_changes_nothing_and_says_why(tmp_path: Path, old: str, new: str, reason: str) -> None:
    install_puppet(tmp_path)
    async with ready(tmp_path, *LINES, environment=TOKEN) as host, aiohttp.ClientSession() as session:
        rewrite(tmp_path, "preload = []", "preload = []\npin = true")
        rewrite(tmp_path, old, new)
        host.process.send_signal(signal.SIGHUP)
        line = await logged(host, "the configuration stays as it is")
        assert reason in line["reason"]
        assert (await status(session, host))["pin"] is False
        # Put in order, it is taken.
        rewrite(tmp_path, new, old)
        host.process.send_signal(signal.SIGHUP)
        assert (await logged(host, "configuration re-read"))["applied"] == ["defaults.pin"]


async def test_settings_that_a_manifest_does_not_know_change_nothing(tmp_path: Path) -> None:
    package = install_puppet(tmp_path)
    (package / "handler.toml").write_text('[config.control]\ntype = "string"\n')
    async with ready(tmp_path, *LINES, environment=TOKEN) as host:
        rewrite(tmp_path, "[handlers.puppet]", "[handlers.puppet]\ncontorl = 1")
        host.process.send_signal(signal.SIGHUP)
        line = await logged(host, "the configuration stays as it is")
        assert "[handlers.puppet]" in line["reason"]
        assert "'control'" in line["reason"]


async def test_the_format_and_level_of_the_log_change_at_once(tmp_path: Path) -> None:
    async with ready(tmp_path, *LINES, environment=TOKEN) as host:
        rewrite(tmp_path, 'format = "json"', 'format = "text"')
        host.process.send_signal(signal.SIGHUP)
        assert host.process.stderr is not None
        line = b""
        while b"configuration re-read" not in line:
            line = await within(host.process.stderr.readline())
        assert line.endswith(
            b'INFO    handler_host.signals configuration re-read applied=["log.format"] needs_restart=[]\n'
        )


async def test_sigusr1_unloads_what_is_idle_and_nothing_else(tmp_path: Path) -> None:
    for name in ("puppet", "busy"):
        install_puppet(tmp_path, name)
    async with ready(tmp_path, *LINES, environment=TOKEN) as host, aiohttp.ClientSession() as session:
        rewrite(tmp_path, "[handlers.puppet]", f'[handlers.busy]\ncontrol = "{tmp_path}/control"\n[handlers.puppet]')
        host.process.send_signal(signal.SIGHUP)
        await logged(host, "configuration re-read")
        host.control.make("more")
        async with session.post(f"{host.url}/v1/handlers/puppet/echo", json={}) as response:
            assert response.status == 200
        sse = {"Accept": "text/event-stream"}
        body = {"steps": ["", "wait:more"]}
        async with session.post(f"{host.url}/v1/handlers/busy/stream", json=body, headers=sse) as stream:
            await within(stream.content.readuntil(b"\n\n"))
            host.process.send_signal(signal.SIGUSR1)
            assert (await logged(host, "unloaded idle handlers"))["handlers"] == ["puppet"]
            assert (await status(session, host))["state"] == "cold"
            await host.control.signal("more")
            assert "event: end" in await within(stream.text())


async def test_sigterm_after_them_still_ends_the_host(tmp_path: Path) -> None:
    async with ready(tmp_path, *LINES, environment=TOKEN) as host:
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
            host.process.send_signal(number)
        await host.output()
        assert host.process.returncode == 0


def test_a_terminal_that_is_closed_ends_the_host_that_runs_at_it(tmp_path: Path) -> None:
    """No operator sends SIGHUP then; the host would keep running without a terminal to stop it."""
    end, side = pty.openpty()
    start = (
        "import os, sys; os.close(os.open(os.ttyname(0), os.O_RDWR)); "
        "os.execv(sys.executable, [sys.executable, '-m', 'handler_host', 'serve', '--port', '0'])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start],
        stdin=side,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=tmp_path,
        env=os.environ | TOKEN,
    )
    os.close(side)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith(b"ready ")
        os.close(end)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
