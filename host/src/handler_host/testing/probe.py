"""Reports what a plugin does to its process; ``handler-host check`` runs it in a process of its own.

``python -m handler_host.testing.probe`` reads a :class:`ProbeSpec` as JSON from standard input and writes a
:class:`ProbeReport` as the last line of standard output.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import site
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from handler_host._internal.source_location import in_brackets
from handler_host.channel.frames import WorkerSpec
from handler_host.plugin.context import Context, Secret
from handler_host.plugin.errors import HostError
from handler_host.plugin.operations import CallInfo
from handler_host.testing.made_up_values import make_value
from handler_host.testing.plugin_observer import MainThreadSampler, PluginObserver, StdoutRecorder
from handler_host.workers.runtime.loading import LoadError, Operation, load, load_error

BLOCKED_S = 0.25
"""Seconds for which a handler may block the loop without being reported."""
SETTLE_S = 5.0
"""Seconds within which threads and sockets must be gone after the deactivation."""
CALL_TIMEOUT_S = 20.0
"""Longest time of one call of an operation."""
PROBE_TIMEOUT_S = 120.0
"""Longest time of the whole probe; a report without the rest is written then."""


class ProbeSpec(msgspec.Struct, kw_only=True):
    """The handler to probe."""

    spec: WorkerSpec
    requests: dict[str, Any] = {}
    """Requests for operations; the others are called with a request made from their schema."""
    only_import: bool = False
    """Whether to import the module and no more, because settings are missing."""


class ProcessResources(msgspec.Struct, frozen=True):
    """Numbers of the threads, sockets and child processes of a process."""

    threads: int
    sockets: int
    children: int

    def more_than(self, earlier: ProcessResources) -> list[str]:
        """Return in words the resources that were not there ``earlier``."""
        names = ("threads", "sockets", "children")
        differences = [(name, getattr(self, name) - getattr(earlier, name)) for name in names]
        words = {
            "threads": ("thread", "threads"),
            "sockets": ("socket", "sockets"),
            "children": ("process", "processes"),
        }
        return [f"{count} {words[name][count > 1]}" for name, count in differences if count > 0]


class ProbeReport(msgspec.Struct, kw_only=True):
    """The effects of a handler on its process; times in seconds."""

    is_importable: bool = True
    import_seconds: float = 0.0
    modules: int = 0
    """Number of modules that the import of the plugin's own module loaded."""
    opened_at_import: list[str] = []
    opened_by: dict[str, str] = {}
    """``thread``, ``socket`` or ``process`` to the ``file:line`` that opened the first one."""
    printed: str | None = None
    """The first text that it wrote to standard output, and the place."""
    activate_seconds: float = 0.0
    error: str | None = None
    """The reason why it could not be loaded or activated; the later fields are empty then."""
    tried: dict[str, str | None] = {}
    """Each tried operation, with its error."""
    made_up: dict[str, str] = {}
    """The requests that were made from the operations' schemas, as JSON."""
    faults: list[str] = []
    """The operations whose error is not one of the host's: clients get 500 for them."""
    blocked: list[float] = []
    """Each time that the loop was blocked for too long."""
    blocked_by: str | None = None
    """The ``file:line`` that blocked it the first time."""
    close_failures: list[str] = []
    """The errors of ``deactivate`` and of the callbacks of ``on_close``."""
    left_behind: list[str] = []
    """Resources and tasks that exist after the deactivation."""
    step: str = ""
    """What the probe does now; empty at its end."""
    stuck_at: str | None = None
    """The ``file:line`` in the plugin's code at the end of the probe's time."""


def process_resources() -> ProcessResources:
    """Return the resources of this process (on Linux; zeros elsewhere)."""
    sockets = 0
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                sockets += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    threads, children = 0, 0
    with suppress(OSError):
        tasks = os.listdir("/proc/self/task")
        threads = len(tasks)
        for task in tasks:
            with suppress(OSError):
                children += len(Path(f"/proc/self/task/{task}/children").read_text().split())
    return ProcessResources(threads, sockets, children)


async def run_probe(probe: ProbeSpec, observer: PluginObserver, report: ProbeReport) -> None:
    """Import, activate, try and deactivate a handler; its exceptions become part of the report."""
    report.step = "its import"
    pid = os.getpid()
    before, modules, started = process_resources(), len(sys.modules), time.monotonic()
    observer.record(True)
    try:
        importlib.import_module(probe.spec.entry_point.partition(":")[0])
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any exception of a plugin belongs into the report
        report.is_importable = False
        report.error = load_error("its module could not be imported", error).reason
    observer.record(False)
    if os.getpid() != pid:
        os._exit(0)  # the plugin has forked: the parent writes the report
    report.opened_by = observer.opened
    report.import_seconds = time.monotonic() - started
    report.modules = len(sys.modules) - modules
    report.opened_at_import = process_resources().more_than(before)
    if probe.only_import or not report.is_importable:
        return
    spec = probe.spec
    context = Context(
        handler=spec.handler,
        generation=1,
        config=spec.config,
        secrets={name: Secret(value) for name, value in spec.secrets.items()},
        log=logging.getLogger(spec.handler),
        _data_dir=Path(spec.data_dir) if spec.data_dir is not None else None,
    )
    # Start the threads of the loop's executor now: they stay, and are not the handler's.
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(4)))
    before, started = process_resources(), time.monotonic()
    report.step = "activate"
    try:
        handler = load(spec)
        await handler.run_hook("activate", context)
    except LoadError as error:
        report.error = error.reason
        return
    except (Exception, SystemExit) as error:  # noqa: BLE001 - any exception of a plugin belongs into the report
        report.error = load_error("activate failed", error).reason
        return
    report.activate_seconds = time.monotonic() - started
    for name, operation in handler.operations.items():
        if operation.kind == "native":
            continue  # its requests are those of a client's protocol
        report.step = f"the operation {name}"
        request = probe.requests.get(name)
        if request is None:
            request = make_value(operation.info.input_schema or {})
            report.made_up[name] = msgspec.json.encode(request).decode()
        report.tried[name] = await _try(operation, request, report, observer)
    report.step = "deactivate"
    context.on_close(lambda: handler.run_hook("deactivate", context))
    failures = await context.close()
    report.close_failures = [load_error("deactivate or on_close", failure).reason for failure in failures]
    report.left_behind = await _remaining_resources(before)
    report.step = ""


async def _try(operation: Operation, request: Any, report: ProbeReport, observer: PluginObserver) -> str | None:
    """Run an operation twice and return its error; watch the second run only, because the first may import."""
    failure: str | None = None
    for watched in (False, True):
        watch = await _LoopWatch.start(observer) if watched else None
        try:
            values = [operation.decode(msgspec.json.encode(request))] if operation.takes_request else []
        except msgspec.ValidationError as error:
            return f"the made-up request is invalid: {error}"
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                await _run(operation, values)
        except HostError as error:
            failure = error.message  # what blocks the loop may come before the failure: run it again
        except TimeoutError:
            return f"did not end within {CALL_TIMEOUT_S:g} s"
        except msgspec.ValidationError as error:
            report.faults.append(operation.info.name)
            return f"its response does not fit its declared type: {error}{in_brackets(operation.place)}"
        except (Exception, SystemExit) as error:  # noqa: BLE001 - any exception of a plugin belongs into the report
            report.faults.append(operation.info.name)
            return load_error("it raised", error).reason
        finally:
            if watch is not None:
                report.blocked += await watch.stop()
                report.blocked_by = report.blocked_by or watch.sampler.place
    return failure


async def _run(operation: Operation, values: list[Any]) -> None:
    arguments: dict[str, Any] = {}
    if operation.takes_call:
        log = logging.LoggerAdapter(logging.getLogger("probe"))
        arguments["call"] = CallInfo("probe", operation.info.name, True, time.monotonic() + 60, log)
    if operation.kind == "stream":
        async for chunk in operation.method(*values, **arguments):
            operation.encode(chunk)
    elif operation.kind == "coroutine":
        operation.encode(await operation.method(*values, **arguments))
    elif operation.kind == "iterator":
        for chunk in await asyncio.to_thread(lambda: list(operation.method(*values, **arguments))):
            operation.encode(chunk)
    else:
        operation.encode(await asyncio.to_thread(operation.method, *values, **arguments))


class _LoopWatch:
    """Measures how late a callback comes that is due every 10 ms."""

    INTERVAL_S = 0.01

    def __init__(self, observer: PluginObserver) -> None:
        self._delays: list[float] = []
        self.sampler = MainThreadSampler(observer, BLOCKED_S)
        self._task = asyncio.create_task(self._tick())

    @classmethod
    async def start(cls, observer: PluginObserver) -> Self:
        """Return a watch that already waits for its first callback."""
        watch = cls(observer)
        await asyncio.sleep(0)
        return watch

    async def _tick(self) -> None:
        while True:
            started = time.monotonic()
            busy = time.thread_time()
            self.sampler.tick()
            await asyncio.sleep(self.INTERVAL_S)
            delay = time.monotonic() - started - self.INTERVAL_S
            # A short delay counts only if this thread computed: on a busy machine it may have waited for a core.
            if delay > BLOCKED_S and (time.thread_time() - busy > BLOCKED_S / 2 or delay > 4 * BLOCKED_S):
                self._delays.append(round(delay, 3))

    async def stop(self) -> list[float]:
        """Return the delays that were too long."""
        await asyncio.sleep(2 * self.INTERVAL_S)  # a late callback comes first
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self.sampler.stop()
        return self._delays


async def _remaining_resources(before: ProcessResources) -> list[str]:
    """Return in words the resources and tasks that exist ``SETTLE_S`` after the deactivation."""
    deadline = time.monotonic() + SETTLE_S
    while (remaining := process_resources().more_than(before) + _other_tasks()) and time.monotonic() < deadline:  # noqa: ASYNC110 - no event reports it
        await asyncio.sleep(0.05)
    return remaining


def _other_tasks() -> list[str]:
    """Return in words the tasks other than the current one."""
    current = asyncio.current_task()
    coroutines = [task.get_coro() for task in asyncio.all_tasks() if task is not current]
    return [f"the task {getattr(coroutine, '__qualname__', coroutine)}" for coroutine in coroutines]


def main() -> None:
    """Read the spec, probe the handler, write the report."""
    probe = msgspec.json.decode(sys.stdin.buffer.read(), type=ProbeSpec)
    for path in reversed(probe.spec.paths):
        before = list(sys.path)
        site.addsitedir(path)
        sys.path[:] = [*(entry for entry in sys.path if entry not in before), *before]
    # Output of the plugin must not be read as the report.
    out = os.fdopen(os.dup(1), "w")
    written = tempfile.TemporaryFile()  # noqa: SIM115 - until this process ends
    os.dup2(written.fileno(), 1)
    observer = PluginObserver(probe.spec.paths)
    stdout = sys.stdout = StdoutRecorder(observer)
    pid = os.getpid()
    report = ProbeReport()

    def write_report() -> None:
        report.printed = stdout.first_output
        if report.printed is None:
            written.seek(0)
            text = written.read(60).strip()
            report.printed = repr(text.decode(errors="replace")) if text else None
        out.write(msgspec.json.encode(report).decode() + "\n")
        out.flush()
        # Do not wait for threads that the plugin has left.
        os._exit(0)

    def give_up() -> None:
        report.stuck_at = observer.place(sys._current_frames().get(threading.main_thread().ident or 0))
        write_report()

    timer = threading.Timer(PROBE_TIMEOUT_S, give_up)
    timer.daemon = True
    timer.start()
    asyncio.run(run_probe(probe, observer, report))
    if os.getpid() != pid:
        os._exit(0)  # a child that the plugin has forked
    write_report()


if __name__ == "__main__":
    main()
