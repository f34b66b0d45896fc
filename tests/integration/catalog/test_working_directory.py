"""A deploy removes the host's working directory: rescan, SIGHUP and activations go on working."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.support import install_plugin, within

ADMIN = {"Authorization": "Bearer the-admin-token"}
ECHO = """
from handler_host.plugin import operation

class Handler:
    @operation
    def echo(self, request: dict) -> dict:
        return {"echo": request}
"""


@contextlib.asynccontextmanager
async def host_in(directory: Path, config: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run the host in a working directory; yield its process and its URL."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "handler_host",
        "serve",
        "--config",
        str(config),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"HANDLER_HOST_ADMIN_TOKEN": "the-admin-token", "HOME": str(config.parent)},
    )
    try:
        assert process.stdout is not None
        line = (await within(process.stdout.readline())).decode()
        yield process, line.split()[1]
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def next_event(process: asyncio.subprocess.Process, *events: str) -> str:
    assert process.stderr is not None
    while True:
        line: str = json.loads(await within(process.stderr.readline()))["event"]
        if line in events or "defect" in line:
            return line


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_removed_while_the_host_runs(tmp_path: Path, isolation: str) -> None:
    install_plugin(tmp_path / "site", "echo", ECHO)
    release = tmp_path / "releases" / "1"
    release.mkdir(parents=True)
    config = tmp_path / "host.toml"
    config.write_text(
        f'[server]\nport = 0\n[catalog]\nroots = ["{tmp_path}/site"]\n[log]\nformat = "json"\n'
        f'[defaults]\nisolation = "{isolation}"\npreload = []\n'
    )
    async with host_in(release, config) as (process, url), aiohttp.ClientSession() as session:
        release.rmdir()
        async with session.post(f"{url}/admin/rescan", headers=ADMIN) as response:
            report = await response.json()
            assert response.status == 200, report
            assert any("working directory" in warning for warning in report["warnings"])
        async with session.post(f"{url}/v1/handlers/echo/echo", json={"n": 1}) as response:
            assert (response.status, await response.json()) == (200, {"echo": {"n": 1}})
        process.send_signal(signal.SIGHUP)
        assert await next_event(process, "configuration re-read") == "configuration re-read"
        process.terminate()
        await within(process.communicate())
        assert process.returncode == 0
