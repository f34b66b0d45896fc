"""Shared by tests of the running host: plugins in a directory, a supervisor, FIFOs to a worker."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
import mmap
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from handler_host.config import (
    CatalogConfig,
    Config,
    HandlerPolicy,
    LogConfig,
    MemoryConfig,
    ServerConfig,
    VerifyConfig,
    WorkersConfig,
)
from handler_host.dispatch.dispatcher import Dispatcher
from handler_host.dispatch.handler_calls import HandlerCalls
from handler_host.lifecycle.lease import Lease
from handler_host.lifecycle.supervisor import Supervisor
from handler_host.memory.procfs import read_memory
from handler_host.plugin.errors import HostError

WORKERS = Path(__file__).parent / "workers"
LIMIT = 30.0
"""Seconds after which a test that waits fails."""


def install_plugin(
    root: Path,
    name: str,
    source: str,
    *,
    attribute: str = "Handler",
    version: str = "1.0",
    manifest: str | None = None,
    group: str = "handler_host.v1",
) -> Path:
    """Install a plugin of one package into ``root`` as pip does; return the package's directory."""
    package = root / name
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(source)
    if manifest is not None:
        (package / "handler.toml").write_text(manifest)
    for old in root.glob(f"{name}-*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    info = root / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {name}:{attribute}\n")
    files = [f"{name}/__init__.py", f"{name}/handler.toml", f"{info.name}/METADATA", f"{info.name}/entry_points.txt"]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    return package


def install_puppet(root: Path, name: str = "puppet") -> Path:
    """Install the plugin that follows the steps of its requests, under ``name``."""
    return install_plugin(root, name, (WORKERS / "puppet.py").read_text(), attribute="Puppet")


class Control:
    """The FIFOs to and from one worker; ``signal`` and ``wait_for`` wait for the other end.

    They poll instead of blocking a thread: a test that fails would wait for that thread for ever.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def make(self, *names: str) -> None:
        """Make FIFOs."""
        for name in names:
            if not (self.directory / name).exists():
                os.mkfifo(self.directory / name)

    async def signal(self, name: str) -> None:
        """Write to a FIFO; returns when the worker has opened it."""
        async with asyncio.timeout(LIMIT):
            while (descriptor := self._open_for_writing(name)) is None:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0.005)
        os.write(descriptor, b"now")
        os.close(descriptor)

    async def wait_for(self, name: str) -> str:
        """Return the text that the worker writes to a FIFO."""
        descriptor = os.open(self.directory / name, os.O_RDONLY | os.O_NONBLOCK)
        text = b""
        try:
            async with asyncio.timeout(LIMIT):
                while True:
                    # First without a writer; then with one that has written nothing; it closes its end after its text.
                    with contextlib.suppress(BlockingIOError):
                        chunk = os.read(descriptor, 65536)
                        if text and not chunk:
                            return text.decode()
                        text += chunk
                    await asyncio.sleep(0.005)
        finally:
            os.close(descriptor)

    def _open_for_writing(self, name: str) -> int | None:
        try:
            return os.open(self.directory / name, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return None  # no reader yet


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds that no event reports."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    """Return whether a process is neither running nor a zombie."""
    return not Path(f"/proc/{pid}").exists()


def ended(pid: int) -> bool:
    """Return whether a process has exited; it may be a zombie if its parent has exited too, until init reaps it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children_of(pid: int) -> list[int]:
    """Return the child processes of a process that are not reaped."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return children


def resident_bytes() -> int:
    """Return this process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


async def within(work: Any, seconds: float = LIMIT) -> Any:
    """Return the result of ``work``, or fail the test if it takes too long."""
    async with asyncio.timeout(seconds):
        return await work


class SupervisorHarness:
    """A supervisor with the plugins of one directory."""

    def __init__(self, root: Path, supervisor: Supervisor) -> None:
        self.root = root
        self.supervisor = supervisor
        self.control = Control(root / "control")

    async def ask(
        self, name: str = "puppet", operation: str = "echo", /, timeout: float = LIMIT, **request: Any
    ) -> Any:
        """Run an operation; return its response."""
        async with self.supervisor.lease(name, operation) as lease:
            body = json.dumps(request).encode()
            call = lease.call(operation, body, streamed=False, request_id="test", timeout=timeout)
            return json.loads(await call.read_response())

    async def chunks(self, name: str = "puppet", operation: str = "stream", **request: Any) -> AsyncIterator[Any]:
        """Run an operation as a stream."""
        async with self.supervisor.lease(name, operation) as lease:
            body = json.dumps(request).encode()
            call = lease.call(operation, body, streamed=True, request_id="test", timeout=None)
            async for chunk in call:
                yield json.loads(chunk)

    def start(self, work: Any) -> asyncio.Task[Any]:
        """Run ``work`` in a task beside the test."""
        return asyncio.ensure_future(work)

    def state(self, name: str = "puppet") -> str:
        """Return the handler's state as operators see it."""
        return self.supervisor.status(name).state

    def pid(self, name: str = "puppet") -> int:
        """Return the process ID of the handler's worker."""
        pid = self.supervisor.status(name).pid
        assert pid is not None, f"{name} has no worker"
        return pid


def room_for(size: int) -> int:
    """Return a limit that leaves ``size`` bytes to workers: a test's host is pytest, which grows with each test."""
    pytest_memory = read_memory(os.getpid())
    assert pytest_memory is not None
    return pytest_memory.pss + size


@contextlib.contextmanager
def control_group(controller: str, file: str, limit: int) -> Iterator[Path]:
    """Make a control group of the kernel (v1) with a limit; skip the test where none can be made."""
    group = Path("/sys/fs/cgroup", controller, f"handler-host-test-{secrets.token_hex(4)}")
    try:
        group.mkdir()
        (group / file).write_text(str(limit))
    except OSError as error:
        pytest.skip(f"no control group v1 can be made here: {error}")
    yield group
    group.rmdir()


@contextlib.asynccontextmanager
async def supervisor_harness(
    root: Path,
    *,
    handlers: Mapping[str, Mapping[str, Any]] | None = None,
    policy: Mapping[str, Any] | None = None,
    workers: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
    installed: bool = False,
    log: LogConfig | None = None,
    verify: VerifyConfig | None = None,
    launchers: Mapping[str, Mapping[str, Any]] | None = None,
    foreign: Callable[[], set[int]] = set,
) -> AsyncIterator[SupervisorHarness]:
    """Run a supervisor over the plugins in ``root``, and over those installed if ``installed`` is set.

    No process of it may be left at the end; ``foreign`` returns those that the test starts itself.
    """
    control = str(root / "control")
    config = Config(
        server=ServerConfig(**(server or {})),
        memory=MemoryConfig(**{"pressure": None, **(memory or {})}),
        workers=WorkersConfig(**{"compile_lean": False, **(workers or {})}),
        defaults=HandlerPolicy(**{"preload": (), "stop_grace": 2.0, **(policy or {})}),
        catalog=CatalogConfig(roots=(root,), include_sys_path=installed),
        data_dir=data_dir,
        log=log or LogConfig(),
        verify=verify or VerifyConfig(),
        handlers={"puppet": {"control": control}, **{name: dict(keys) for name, keys in (handlers or {}).items()}},
        launchers={name: dict(keys) for name, keys in (launchers or {}).items()},
    )
    before = set(children_of(os.getpid()))
    supervisor = Supervisor(config, environ=os.environ if environ is None else environ)
    dispatcher = Dispatcher(supervisor, config.server.request_timeout)
    await supervisor.start(functools.partial(HandlerCalls, dispatcher))
    try:
        yield SupervisorHarness(root, supervisor)
    finally:
        supervisor.force_shutdown()
        await within(supervisor.close())
        left = set(children_of(os.getpid())) - before - foreign()
        assert not left, f"processes are left: {left}"


async def error_of(work: Any) -> HostError:
    """Return the error that ``work`` raises."""
    try:
        result = await within(work)
    except HostError as error:
        return error
    raise AssertionError(f"no error, but {result!r}")


__all__ = [
    "Control",
    "Lease",
    "SupervisorHarness",
    "children_of",
    "error_of",
    "gone",
    "install_plugin",
    "install_puppet",
    "supervisor_harness",
    "until",
    "within",
]
