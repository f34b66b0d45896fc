"""What tests of the running host share: plugins laid into a directory, a supervisor, FIFOs to a worker."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

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
from handler_host.plugin.errors import HostError

WORKERS = Path(__file__).parent / "workers"
LIMIT = 30.0
"""Seconds after which a test that waits for something has failed."""


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
    """Lay a plugin of one package into ``root`` as pip would; return the package's directory."""
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
    """Install the plugin that does what it is told, under ``name``."""
    return install_plugin(root, name, (WORKERS / "puppet.py").read_text(), attribute="Puppet")


class Control:
    """The FIFOs to and from one worker; ``say`` and ``heard`` wait for the other end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def make(self, *names: str) -> None:
        """Make FIFOs."""
        for name in names:
            if not (self.directory / name).exists():
                os.mkfifo(self.directory / name)

    async def say(self, name: str) -> None:
        """Tell the worker; returns when it has listened."""
        await within(asyncio.to_thread((self.directory / name).write_text, "now"))

    async def heard(self, name: str) -> str:
        """Return what the worker has told."""
        return await within(asyncio.to_thread((self.directory / name).read_text))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something that no event tells has come about."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 - a process's end is told by nobody here
            await asyncio.sleep(0.005)


def gone(pid: int) -> bool:
    """Return whether a process is neither running nor a zombie."""
    return not Path(f"/proc/{pid}").exists()


def ended(pid: int) -> bool:
    """Return whether a process runs no more; who should reap it may be gone as well, and init takes its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started and not reaped."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


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
        """Run an operation; return its answer."""
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

    def begin(self, work: Any) -> asyncio.Task[Any]:
        """Start something that a test goes on beside."""
        return asyncio.ensure_future(work)

    def state(self, name: str = "puppet") -> str:
        """Return the handler's state as it is shown."""
        return self.supervisor.status(name).state

    def pid(self, name: str = "puppet") -> int:
        """Return the process number of the handler's worker."""
        pid = self.supervisor.status(name).pid
        assert pid is not None, f"{name} has no worker"
        return pid


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
) -> AsyncIterator[SupervisorHarness]:
    """Run a supervisor over the plugins in ``root``, and those that are ``installed``.

    At its end no process of it may be left.
    """
    control = str(root / "control")
    config = Config(
        server=ServerConfig(**(server or {})),
        memory=MemoryConfig(**(memory or {})),
        workers=WorkersConfig(**(workers or {})),
        defaults=HandlerPolicy(**{"preload": (), "stop_grace": 2.0, **(policy or {})}),
        catalog=CatalogConfig(roots=(root,), include_sys_path=installed),
        data_dir=data_dir,
        log=log or LogConfig(),
        verify=verify or VerifyConfig(),
        handlers={"puppet": {"control": control}, **{name: dict(keys) for name, keys in (handlers or {}).items()}},
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
        left = set(children_of(os.getpid())) - before
        assert not left, f"processes are left: {left}"


async def error_of(work: Any) -> HostError:
    """Return the error that ``work`` ends with."""
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
