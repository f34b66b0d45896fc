"""A worker whose handler's manifest lists packages: lazy if they are of the checked version and compiled."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handler_host.lean.compiler import compile_package
from handler_host.testing import worker_under_test
from handler_host.workers import lean_compiler
from handler_host.workers.lean_compiler import LeanJob, lean_input
from tests.support import SupervisorHarness, error_of, install_plugin, supervisor_harness, until, within

SDK = {
    "__init__.py": "from .client import Client\nfrom . import heavy\ndef weigh(): return heavy.WEIGHT\n",
    "client.py": "class Client: pass\n",
    "heavy.py": "WEIGHT = 42\n",
}
PLUGIN = """
import sys
from handler_host.plugin import hookimpl, operation

class Handler:
    @hookimpl
    def activate(self, context):
        import lean_sdk
        self.sdk = lean_sdk
        self.loaded = sorted(name for name in sys.modules if name.startswith("lean_sdk"))

    @operation
    async def loaded_at_activation(self) -> list:
        return self.loaded

    @operation
    async def weigh(self) -> int:
        return self.sdk.weigh()
"""
LAZY = ["lean_sdk"]
EAGER = ["lean_sdk", "lean_sdk.client", "lean_sdk.heavy"]


class Installed:
    """A root directory with a plugin and its SDK."""

    def __init__(self, root: Path, cache: Path) -> None:
        self.root = root
        self.cache = cache
        self.environ = {"PATH": "/usr/bin", "LEAN_CACHE": str(cache)}

    def install(self, *, manifest: str = 'packages = ["lean-sdk==1.0"]', version: str = "1.0") -> None:
        """Install the plugin, and the SDK in ``version``."""
        install_plugin(self.root, "leaner", PLUGIN, manifest=f"[lean]\n{manifest}\n")
        for file, text in SDK.items():
            (self.root / "lean_sdk").mkdir(exist_ok=True)
            (self.root / "lean_sdk" / file).write_text(text)
        (self.root / f"lean_sdk-{version}.dist-info").mkdir(exist_ok=True)

    def compile(self, *, version: str = "1.0", eager: tuple[str, ...] = ()) -> None:
        """Compile the SDK, as the command does."""
        compile_package("lean_sdk", version=version, eager=eager, cache=self.cache)

    def run(self, *, compiles: bool = False, memory: dict[str, Any] | None = None, **policy: Any) -> Any:
        """Run a supervisor over the directory."""
        workers = {"compile_lean": compiles}
        return supervisor_harness(self.root, environ=self.environ, policy=policy, workers=workers, memory=memory)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    """Return an installation that is not compiled yet."""
    root = tmp_path / "root"
    root.mkdir()
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setattr(lean_compiler, "lean_input", input_of_foreground_job)
    return Installed(root, tmp_path / "cache")


def input_of_foreground_job(job: LeanJob) -> bytes:
    """Return the input of a compiler at normal priority: on a busy machine an idle one gets no CPU for minutes."""
    assert job.is_background, "the host compiles with CPU that nobody else wants"
    return lean_input(msgspec.structs.replace(job, is_background=False))


async def loaded(running: SupervisorHarness) -> Any:
    return await within(running.ask("leaner", "loaded_at_activation"))


async def test_imports_of_a_checked_version_are_lazy(installed: Installed) -> None:
    installed.install()
    installed.compile()
    async with installed.run() as running:
        assert await loaded(running) == LAZY
        assert await within(running.ask("leaner", "weigh")) == 42


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_both_kinds_of_worker_are_lean(installed: Installed, isolation: str) -> None:
    installed.install()
    installed.compile()
    async with installed.run(isolation=isolation) as running:
        assert await loaded(running) == LAZY


async def test_an_inline_handler_leaves_the_host_s_imports_alone(installed: Installed) -> None:
    installed.install()
    installed.compile()
    finders = list(sys.meta_path)
    async with installed.run(isolation="inline") as running:
        assert await loaded(running) == EAGER
        assert sys.meta_path == finders
    for name in EAGER:
        del sys.modules[name]


async def test_off_is_eager(installed: Installed) -> None:
    installed.install()
    installed.compile()
    async with installed.run(lean="off") as running:
        assert await loaded(running) == EAGER


async def test_another_version_is_eager_with_one_line_and_lazy_by_force(
    installed: Installed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    installed.install(version="1.1")
    installed.compile(version="1.1")
    async with installed.run() as running:
        assert await loaded(running) == EAGER
        lines = [record.message for record in caplog.records if "imported in full" in record.message]
        assert lines == [
            (
                "some packages are imported in full, which takes more time and memory: "
                "lean_sdk (installed is 1.1, checked 1.0); see `handler-host doctor`"
            )
        ]
    async with installed.run(lean="force") as running:
        assert await loaded(running) == LAZY


async def test_each_of_several_checked_versions_is_lazy(installed: Installed) -> None:
    installed.install(manifest='packages = ["lean-sdk==0.9", "lean-sdk==1.0"]')
    installed.compile()
    async with installed.run() as running:
        assert await loaded(running) == LAZY


async def test_a_package_that_is_not_compiled_is_eager_with_one_line(
    installed: Installed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    installed.install()
    async with installed.run() as running:
        assert await loaded(running) == EAGER
        (line,) = [record.message for record in caplog.records if "imported in full" in record.message]
        assert "lean_sdk (not compiled)" in line


async def test_eager_modules_are_not_deferred(installed: Installed) -> None:
    installed.install(manifest='packages = ["lean-sdk==1.0"]\neager = ["lean_sdk.heavy"]')
    installed.compile(eager=("lean_sdk.heavy",))
    async with installed.run() as running:
        assert await loaded(running) == ["lean_sdk", "lean_sdk.heavy"]


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_after_a_failed_deferred_import_activation_is_eager(
    installed: Installed, caplog: pytest.LogCaptureFixture, isolation: str
) -> None:
    installed.install()
    installed.compile()
    async with installed.run(isolation=isolation) as running:
        assert await loaded(running) == LAZY
        (installed.root / "lean_sdk" / "heavy.py").write_text("raise LookupError('broken on this machine')\n")
        error = await error_of(running.ask("leaner", "weigh"))
        assert error.status == 500
        await until(lambda: "the deferred import of 'heavy' from 'lean_sdk' failed" in caplog.text)
        assert "LookupError: broken on this machine; the next activation of this version" in caplog.text
        (installed.root / "lean_sdk" / "heavy.py").write_text("WEIGHT = 43\n")
        await within(running.supervisor.unload("leaner"))
        assert await loaded(running) == EAGER
        await within(running.supervisor.unload("leaner"))
        assert await loaded(running) == EAGER


COMPILED = "leaner: lean imports from its next activation (compiled lean_sdk in "


@pytest.mark.parametrize("isolation", ["process", "exec"])
async def test_the_first_activation_compiles_packages_for_the_next(
    installed: Installed, caplog: pytest.LogCaptureFixture, isolation: str
) -> None:
    caplog.set_level(logging.INFO)
    installed.install()
    async with installed.run(compiles=True, isolation=isolation) as running:
        assert await loaded(running) == EAGER
        await until(lambda: COMPILED in caplog.text)
        await within(running.supervisor.unload("leaner"))
        assert await loaded(running) == LAZY
    assert caplog.text.count("imported in full") == 1


async def test_without_a_writable_cache_the_code_is_beside_the_state(
    installed: Installed, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    installed.install()
    installed.environ["LEAN_CACHE"] = "/dev/null/lean"
    memory = {"state_file": tmp_path / "state" / "memory.json"}
    async with installed.run(compiles=True, memory=memory) as running:
        assert await loaded(running) == EAGER
        await until(lambda: COMPILED in caplog.text)
        await within(running.supervisor.unload("leaner"))
        assert await loaded(running) == LAZY
    assert list((tmp_path / "state" / "lean").rglob("lean_sdk@1.0/index"))


async def test_a_package_that_cannot_be_compiled_is_reported_once(
    installed: Installed, caplog: pytest.LogCaptureFixture
) -> None:
    installed.install()
    installed.environ["LEAN_CACHE"] = "/dev/null/lean"
    async with installed.run(compiles=True) as running:
        for _ in range(2):
            assert await loaded(running) == EAGER
            await until(lambda: "cannot be made: Not a directory" in caplog.text)
            await within(running.supervisor.unload("leaner"))
    (warning,) = [record.message for record in caplog.records if "stay eager" in record.message]
    assert warning.startswith("leaner: some packages stay eager until the host restarts: lean_sdk: cannot be compiled")


async def test_a_host_that_closes_ends_the_compilation(installed: Installed) -> None:
    installed.install()
    functions = "".join(f"def function_{number}(): return {number}\n" for number in range(20_000))
    (installed.root / "lean_sdk" / "large.py").write_text(functions)
    async with installed.run(compiles=True) as running:  # which fails if a process is left
        assert await loaded(running) == EAGER
    assert not list(installed.cache.rglob("index"))


async def test_an_upgrade_in_place_is_compiled_again(installed: Installed, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    installed.install()
    installed.compile()
    (installed.root / "lean_sdk-1.0.dist-info").rmdir()
    installed.install(manifest='packages = ["lean-sdk==1.1"]', version="1.1")
    async with installed.run(compiles=True) as running:
        assert await loaded(running) == EAGER
        await until(lambda: COMPILED in caplog.text)
        await within(running.supervisor.unload("leaner"))
        assert await loaded(running) == LAZY
    assert [path.parent.name for path in installed.cache.rglob("index")] == ["lean_sdk@1.1"]


@pytest.mark.parametrize(("value", "modules"), [("off", EAGER), ("auto", LAZY), (None, LAZY)])
def test_a_variable_chooses_the_imports_of_a_run_of_tests(
    installed: Installed, monkeypatch: pytest.MonkeyPatch, value: str | None, modules: list[str]
) -> None:
    installed.install()
    installed.compile()
    monkeypatch.setenv("LEAN_CACHE", str(installed.cache))
    monkeypatch.delenv("HANDLER_HOST_DEFAULTS__LEAN", raising=False)
    if value is not None:
        monkeypatch.setenv("HANDLER_HOST_DEFAULTS__LEAN", value)
    with worker_under_test("leaner", roots=(installed.root,), include_sys_path=False) as worker:
        assert worker.dispatch("loaded_at_activation", {}) == modules


def test_a_background_job_gets_only_what_others_leave() -> None:
    probe = """
import os
from handler_host.lean.background import _limit_process
_limit_process()
score = open("/proc/self/oom_score_adj").read().strip()
print(os.sched_getscheduler(0) == os.SCHED_IDLE, os.nice(0), score, flush=True)
os._exit(0)
"""
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert result.stdout == "True 19 1000\n"


async def test_a_rescan_has_the_packages_of_a_new_handler_compiled(installed: Installed) -> None:
    async with installed.run(compiles=True) as running:
        installed.install()
        report = await running.supervisor.rescan()
        assert report.added == ["leaner"]
        await until(lambda: list(installed.cache.rglob("lean_sdk@1.0/index")) != [])
        assert await loaded(running) == LAZY
