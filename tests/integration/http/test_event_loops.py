"""Event loops and servers of others: uvloop in host and workers, gunicorn with the host mounted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from handler_host.testing.processes import host_under_test
from tests.support import children_of, gone, install_plugin

ROOT = Path(__file__).parents[3]
UVLOOP = ROOT / "tests/uvloop"
"""Its ``sitecustomize.py`` makes uvloop the event loop of a process."""
TELLER = '''
import asyncio
from collections.abc import AsyncIterator

from handler_host.plugin import operation

class Handler:
    """Handler that names the event loop of its worker."""

    @operation
    async def loop(self) -> str:
        return type(asyncio.get_running_loop()).__module__

    @operation
    async def words(self) -> AsyncIterator[str]:
        for word in ("one", "two"):
            yield word
            await asyncio.sleep(0)
'''
APPLICATION = """
from pathlib import Path

from aiohttp import web
from handler_host import create_app
from tests.integration.http.serving import configured

app = web.Application()
app.add_subapp("/llm", create_app(configured(Path(__file__).parent)))
"""


def call(url: str, path: str, **headers: str) -> Any:
    """Send a request with an empty object; return the text of the response."""
    request = urllib.request.Request(url + path, b"{}", {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=30) as response:
        return response.read().decode()


@contextmanager
def gunicorn(directory: Path, worker_class: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve ``application.py`` of ``directory``; give the process and its URL."""
    command = [sys.executable, "-m", "gunicorn", "application:app", "--bind=127.0.0.1:0", "--no-control-socket"]
    process = subprocess.Popen(
        [*command, f"--worker-class={worker_class}"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        lines = iter(process.stderr.readline, "")
        address = next(line for line in lines if "Listening at: " in line)
        yield process, address.partition("Listening at: ")[2].split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stderr.close()


@pytest.fixture
def teller(tmp_path: Path) -> Path:
    install_plugin(tmp_path, "teller", TELLER)
    return tmp_path


@pytest.mark.parametrize("isolation", ["process", "exec", "inline"])
def test_served_with_uvloop(teller: Path, isolation: str) -> None:
    config = f"""
        [catalog]
        roots = ["{teller}"]
        include_sys_path = false
        [defaults]
        isolation = "{isolation}"
        """
    with host_under_test(config, environ={"PYTHONPATH": str(UVLOOP)}) as host:
        assert host.request("POST", "/v1/handlers/teller/loop", {}) == (200, "uvloop")
        assert 'data: "two"' in call(host.url, "/v1/handlers/teller/words", Accept="text/event-stream")
        assert host.admin_request("POST", "/handlers/teller/unload")[0] == 200


@pytest.mark.parametrize("worker_class", ["aiohttp.GunicornWebWorker", "aiohttp.GunicornUVLoopWebWorker"])
def test_mounted_under_gunicorn(teller: Path, worker_class: str) -> None:
    (teller / "application.py").write_text(APPLICATION)
    with gunicorn(teller, worker_class) as (process, url):
        assert json.loads(call(url, "/llm/v1/handlers/teller/loop")) in ("uvloop", "asyncio.unix_events")
        assert 'data: "two"' in call(url, "/llm/v1/handlers/teller/words", Accept="text/event-stream")
        served = children_of(process.pid)
    assert all(gone(pid) for pid in served)
