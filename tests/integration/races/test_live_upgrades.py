"""Plugins that pip installs, upgrades and removes while the host runs: wheels and editables of four build backends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import pytest

from handler_host.plugin.errors import UnknownHandler
from tests.integration.catalog.test_editable_installs import BACKENDS, PYPROJECT
from tests.support import SupervisorHarness, error_of, supervisor_harness, until, within

pytestmark = pytest.mark.slow

NAMES = [f"{backend}_{kind}" for backend in ("setuptools", "hatchling", "flit", "uv") for kind in ("wheel", "editable")]
SOURCE = """\
VERSION = "{version}"

import asyncio
from pathlib import Path
from handler_host.plugin import operation

class Plugin:
    @operation
    async def version(self, request: dict) -> str:
        return VERSION

    @operation
    async def stream(self, request: dict):
        yield VERSION
        while not Path(request["until"]).exists():
            await asyncio.sleep(0.01)
        yield VERSION
"""


def write_project(directory: Path, name: str, version: str) -> Path:
    """Write, or write over, the project of one plugin; return its directory."""
    requires, backend, settings = BACKENDS[name.partition("_")[0]]
    package = directory / "src" / f"gpt_{name}"
    package.mkdir(parents=True, exist_ok=True)
    text = PYPROJECT.format(requires=requires, backend=backend, name=name).replace('"1.0"', f'"{version}"')
    settings = settings.format(folder="src/", name=f"gpt_{name}", where="src/", root="src")
    (directory / "pyproject.toml").write_text(text + settings)
    (package / "__init__.py").write_text("")
    part = package / "part.py"
    part.write_text(SOURCE.format(version=version))
    # Python compares bytecode with its source by size and whole seconds.
    seconds = 1_700_000_000 + 100 * int(version.partition(".")[0])
    os.utime(part, (seconds, seconds))
    return directory


class Environment:
    """A virtual environment, and this one's pip and build backends to work on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.site = directory / "lib" / version / "site-packages"

    async def pip(self, *words: str) -> None:
        """Run pip in a thread: the host under test, in this process, runs meanwhile."""
        await asyncio.to_thread(self._run_pip, words)

    def _run_pip(self, words: Sequence[str]) -> None:
        # uv_build looks for its program on the path.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_NO_INPUT": "1"}
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--quiet", "--python", str(self.directory / "bin" / "python"), *words],
            env={**os.environ, **quiet, "PATH": path, "PYTHONPATH": sysconfig.get_path("purelib")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    async def install(self, base: Path, version: str) -> None:
        """Install that version of all plugins: an editable from its source, a wheel from a copy."""
        words: list[str] = []
        for name in NAMES:
            if name.endswith("_editable"):
                words += ["--editable", str(write_project(base / name, name, version))]
            else:
                words += [str(write_project(base / version / name, name, version))]
        await self.pip("install", "--upgrade", "--no-index", "--no-deps", "--no-build-isolation", *words)


async def versions(host: SupervisorHarness) -> dict[str, str]:
    return {name: await within(host.ask(name, "version")) for name in NAMES}


async def test_plugins_are_upgraded_and_removed_while_the_host_runs(tmp_path: Path) -> None:
    """Old streams end on old code, and the next dispatch runs the new code."""
    environment = Environment(tmp_path / "venv")
    go = tmp_path / "go"
    async with supervisor_harness(environment.site) as host:
        assert not host.supervisor.statuses()
        await environment.install(tmp_path, "1.0")
        assert (await host.supervisor.rescan()).added == sorted(NAMES)
        assert await versions(host) == dict.fromkeys(NAMES, "1.0")

        streams = {name: host.chunks(name, "stream", until=str(go)) for name in NAMES}
        for name, stream in streams.items():
            assert await within(anext(stream)) == "1.0", name
        await environment.install(tmp_path, "2.0")
        report = await host.supervisor.rescan()
        assert (report.changed, report.problems) == (sorted(NAMES), {})
        reloads = [host.start(host.supervisor.reload(name)) for name in NAMES]
        await until(lambda: all(host.state(name) == "draining" for name in NAMES))
        asked = host.start(versions(host))
        go.touch()
        for name, stream in streams.items():
            assert [chunk async for chunk in stream] == ["1.0"], name
        for reload in reloads:
            assert (await within(reload)).drained == 1
        assert await within(asked) == dict.fromkeys(NAMES, "2.0")
        assert {host.supervisor.status(name).version for name in NAMES} == {"2.0"}

        await environment.pip("uninstall", "--yes", *(f"gpt-{name}" for name in NAMES))
        assert (await host.supervisor.rescan()).removed == sorted(NAMES)
        for name in NAMES:  # running workers stay until they are unloaded
            await within(host.supervisor.unload(name))
            assert isinstance(await error_of(host.ask(name, "version")), UnknownHandler)
