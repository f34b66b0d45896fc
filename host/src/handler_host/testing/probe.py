"""What a plugin does to its process, looked at from inside: run by ``handler-host check`` in a process of its own.

``python -m handler_host.testing.probe`` reads a :class:`Probe` as JSON from standard input and
writes a :class:`Findings` as the last line of standard output.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import site
import sys
import tempfile
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
from handler_host.testing.memory_sampler import Sampler, Spoken, Witness
from handler_host.workers.runtime.loading import LoadError, Operation, load, load_error

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
    opened_by: dict[str, str] = {}
    """``thread``, ``socket`` or ``process`` to the ``file:line`` that has opened the first one."""
    printed: str | None = None
    """What it wrote to standard output first, and where, if it did."""
    activate_seconds: float = 0.0
    error: str | None = None
    """Why it could not be loaded or activated; nothing after this was tried."""
    tried: dict[str, str | None] = {}
    """Each operation that was tried, with its error."""
    faults: list[str] = []
    """Which of these errors are the handler's own, and no host's error: clients get 500 for them."""
    blocked: list[float] = []
    """For how long the loop was kept busy, each time that it was too long."""
    blocked_by: str | None = None
    """The ``file:line`` that it was busy with the first time."""
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


async def look(probe: Probe, witness: Witness) -> Findings:
    """Import, activate, try, deactivate; never raises for what the plugin does."""
    found = Findings()
    pid = os.getpid()
    before, modules, begun = held(), len(sys.modules), time.monotonic()
    witness.listen(True)
    with suppress(Exception, SystemExit):  # `load` says it better
        importlib.import_module(probe.spec.entry_point.partition(":")[0])
    witness.listen(False)
    if os.getpid() != pid:
        os._exit(0)  # it has forked, and its parent tells of it
    found.opened_by = witness.opened
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
        _data_dir=Path(spec.data_dir) if spec.data_dir is not None else None,
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
        found.error = load_error("activate failed", error).reason
        return found
    found.activate_seconds = time.monotonic() - begun
    for name, request in probe.requests.items():
        if name in handler.operations:
            found.tried[name] = await _try(handler.operations[name], request, found, witness)
    context.on_close(lambda: handler.run_hook("deactivate", context))
    await context.close()
    found.left_behind = await _left(before)
    return found


async def _try(operation: Operation, request: Any, found: Findings, witness: Witness) -> str | None:
    """Run an operation twice: the first time may import; return its error, if there is one."""
    for watched in (False, True):
        watch = await _Watch.begin(witness) if watched else None
        try:
            async with asyncio.timeout(60):
                await _run(operation, request)
        except HostError as error:
            return error.message
        except msgspec.ValidationError as error:
            found.faults.append(operation.info.name)
            return f"its answer does not fit its declared type: {error}{in_brackets(operation.place)}"
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises is a finding
            found.faults.append(operation.info.name)
            return load_error("it raised", error).reason
        finally:
            if watch is not None:
                found.blocked += await watch.end()
                found.blocked_by = watch.sampler.place
    return None


async def _run(operation: Operation, request: Any) -> None:
    arguments: dict[str, Any] = {}
    if operation.takes_call:
        log = logging.LoggerAdapter(logging.getLogger("probe"))
        arguments["call"] = CallInfo("probe", operation.info.name, True, time.monotonic() + 60, log)
    values = [operation.decode(msgspec.json.encode(request))] if operation.takes_request else []
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


class _Watch:
    """Sees when the loop is kept busy: a callback that should come every 10 ms comes late."""

    STEP = 0.01

    def __init__(self, witness: Witness) -> None:
        self._late: list[float] = []
        self.sampler = Sampler(witness, BLOCKED)
        self._task = asyncio.create_task(self._tick())

    @classmethod
    async def begin(cls, witness: Witness) -> Self:
        """Return one that waits for its first callback already."""
        watch = cls(witness)
        await asyncio.sleep(0)
        return watch

    async def _tick(self) -> None:
        while True:
            begun = time.monotonic()
            busy = time.thread_time()
            self.sampler.turn()
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
        self.sampler.end()
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
    written = tempfile.TemporaryFile()  # noqa: SIM115 - until this process ends
    os.dup2(written.fileno(), 1)
    witness = Witness(probe.spec.paths)
    spoken = sys.stdout = Spoken(witness)
    pid = os.getpid()
    found = asyncio.run(look(probe, witness))
    if os.getpid() != pid:
        os._exit(0)  # the plugin has forked this one
    found.printed = spoken.first
    if found.printed is None:
        written.seek(0)
        words = written.read(60).strip()
        found.printed = repr(words.decode(errors="replace")) if words else None
    out.write(msgspec.json.encode(found).decode() + "\n")
    out.flush()
    # Threads that a plugin has left must not keep this process.
    os._exit(0)


if __name__ == "__main__":
    main()
