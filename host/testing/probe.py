"""What a plugin does to its process, looked at from inside: run by ``handler-host check`` in a process of its own.

``python -m host.testing.probe`` reads a :class:`Probe` as JSON from standard input and
writes a :class:`Findings` as the last line of standard output.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import site
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec

from host.channel.wire import WorkerSpec
from host.errors import HostError
from host.plugin import CallInfo, Context, Secret
from host.worker.loading import LoadError, Operation, load

BLOCKED = 0.25
"""Seconds for which a handler may keep the loop busy in one go before that is told."""
SETTLE = 5.0
"""Seconds that threads and sockets get to go after a deactivation."""


class Probe(msgspec.Struct, kw_only=True):
    """What to look at."""

    spec: WorkerSpec
    requests: dict[str, Any] = {}
    """A request for each operation that is to be tried."""


class Held(msgspec.Struct, frozen=True):
    """What a process holds."""

    threads: int
    sockets: int
    children: int

    def more_than(self, other: Held) -> list[str]:
        """Return in words what is held here and was not there."""
        names = ("threads", "sockets", "children")
        found = [(name, getattr(self, name) - getattr(other, name)) for name in names]
        words = {
            "threads": ("thread", "threads"),
            "sockets": ("socket", "sockets"),
            "children": ("process", "processes"),
        }
        return [f"{count} {words[name][count > 1]}" for name, count in found if count > 0]


class Findings(msgspec.Struct, kw_only=True):
    """What was seen. Times are seconds."""

    import_seconds: float = 0.0
    modules: int = 0
    """How many modules the import of the plugin's own module has loaded."""
    opened_at_import: list[str] = []
    activate_seconds: float = 0.0
    error: str | None = None
    """Why it could not be loaded or activated; nothing after this was tried."""
    tried: dict[str, str | None] = {}
    """Each operation that was tried, with its error."""
    blocked: list[float] = []
    """For how long the loop was kept busy, each time that it was too long."""
    left_behind: list[str] = []
    """What is still there after the deactivation."""


def held() -> Held:
    """Return what this process holds (Linux; elsewhere nothing is seen)."""
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
    return Held(threads, sockets, children)


async def look(probe: Probe) -> Findings:
    """Import, activate, try, deactivate; never raises for what the plugin does."""
    found = Findings()
    before, modules, begun = held(), len(sys.modules), time.monotonic()
    with suppress(Exception, SystemExit):  # `load` says it better
        importlib.import_module(probe.spec.entry_point.partition(":")[0])
    found.import_seconds = time.monotonic() - begun
    found.modules = len(sys.modules) - modules
    found.opened_at_import = held().more_than(before)
    spec = probe.spec
    context = Context(
        handler=spec.handler,
        generation=1,
        config=spec.config,
        secrets={name: Secret(value) for name, value in spec.secrets.items()},
        log=logging.getLogger(spec.handler),
        data_dir=Path(spec.data_dir) if spec.data_dir is not None else None,
    )
    # Its threads are the loop's own, and stay.
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.01) for _ in range(4)))
    before, begun = held(), time.monotonic()
    try:
        handler = load(spec)
        await handler.run_hook("activate", context)
    except LoadError as error:
        found.error = error.reason
        return found
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a plugin raises is a finding
        found.error = f"activate failed: {type(error).__name__}: {error}"
        return found
    found.activate_seconds = time.monotonic() - begun
    for name, request in probe.requests.items():
        if name in handler.operations:
            found.tried[name] = await _try(handler.operations[name], request, found)
    context.on_close(lambda: handler.run_hook("deactivate", context))
    await context.close()
    found.left_behind = await _left(before)
    return found


async def _try(operation: Operation, request: Any, found: Findings) -> str | None:
    """Run an operation twice: the first time may import; return its error, if there is one."""
    for watched in (False, True):
        watch = await _Watch.begin() if watched else None
        try:
            async with asyncio.timeout(60):
                await _run(operation, request)
        except HostError as error:
            return error.message
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is a finding
            return f"{type(error).__name__}: {error}"
        finally:
            if watch is not None:
                found.blocked += await watch.end()
    return None


async def _run(operation: Operation, request: Any) -> None:
    arguments: dict[str, Any] = {}
    if operation.takes_call:
        log = logging.LoggerAdapter(logging.getLogger("probe"))
        arguments["call"] = CallInfo("probe", operation.info.name, True, time.monotonic() + 60, log)
    values = [operation.decode(msgspec.json.encode(request))] if operation.takes_request else []
    if operation.kind == "stream":
        async for _ in operation.method(*values, **arguments):
            pass
    elif operation.kind == "coroutine":
        await operation.method(*values, **arguments)
    else:
        await asyncio.to_thread(lambda: list(operation.method(*values, **arguments) or ()))


class _Watch:
    """Sees when the loop is kept busy: a callback that should come every 10 ms comes late."""

    STEP = 0.01

    def __init__(self) -> None:
        self._late: list[float] = []
        self._task = asyncio.create_task(self._tick())

    @classmethod
    async def begin(cls) -> Self:
        """Return one that waits for its first callback already."""
        watch = cls()
        await asyncio.sleep(0)
        return watch

    async def _tick(self) -> None:
        while True:
            begun = time.monotonic()
            busy = time.thread_time()
            await asyncio.sleep(self.STEP)
            late = time.monotonic() - begun - self.STEP
            # Late for want of a core is nobody's fault here: a blocking call computes, or waits in this thread.
            if late > BLOCKED and (time.thread_time() - busy > BLOCKED / 2 or late > 4 * BLOCKED):
                self._late.append(round(late, 3))

    async def end(self) -> list[float]:
        """Return each time that it was too long, up to now."""
        await asyncio.sleep(2 * self.STEP)  # what was late comes first
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        return self._late


async def _left(before: Held) -> list[str]:
    """Return what has not gone ``SETTLE`` seconds after the deactivation."""
    limit = time.monotonic() + SETTLE
    while (more := held().more_than(before) + _tasks()) and time.monotonic() < limit:  # noqa: ASYNC110 - told by nobody
        await asyncio.sleep(0.05)
    return more


def _tasks() -> list[str]:
    """Return in words which tasks there are beside the one that asks."""
    mine = asyncio.current_task()
    running = [task.get_coro() for task in asyncio.all_tasks() if task is not mine]
    return [f"the task {getattr(coroutine, '__qualname__', coroutine)}" for coroutine in running]


def main() -> None:
    """Read, look, write."""
    probe = msgspec.json.decode(sys.stdin.buffer.read(), type=Probe)
    for path in reversed(probe.spec.paths):
        before = list(sys.path)
        site.addsitedir(path)
        sys.path[:] = [*(entry for entry in sys.path if entry not in before), *before]
    # What the plugin prints must not be taken for the answer.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    found = asyncio.run(look(probe))
    out.write(msgspec.json.encode(found).decode() + "\n")
    out.flush()
    # Threads that a plugin has left must not keep this process.
    os._exit(0)


if __name__ == "__main__":
    main()
