"""Compile packages for lean imports in the background, when a worker reports that they are not compiled."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress

import msgspec

from handler_host.channel.frames import LeanImports
from handler_host.workers.host_signals import host_signals_blocked
from handler_host.workers.worker_process import ExitStatus, reap, wait_for_exit

MODULE = "handler_host.lean.background"

TIMEOUT_S = 1800.0
"""Time of one process: it gets only CPU that nothing else uses, and litellm takes a minute of it."""

_log = logging.getLogger("handler_host.lean")


class LeanJob(LeanImports, frozen=True, kw_only=True):
    """What a process compiles, or reports on: the fields of ``handler_host.lean.background.Job``."""

    paths: tuple[str, ...]
    compile: bool
    is_background: bool


class LeanResult(msgspec.Struct, frozen=True):
    """The packages of a job by what they are now: ``handler_host.lean.background.Result``."""

    lean: list[str]
    compiled: list[str]
    eager: dict[str, str]
    """Packages that stay eager, and why."""

    @property
    def failures(self) -> dict[str, str]:
        """Packages that this run could not compile, and why."""
        return {name: reason for name, reason in self.eager.items() if reason.startswith("cannot be compiled")}


def lean_job(lean: LeanImports, paths: tuple[str, ...], *, compile: bool, is_background: bool) -> LeanJob:
    """Return the job for the packages of one worker."""
    return LeanJob(**msgspec.structs.asdict(lean), paths=paths, compile=compile, is_background=is_background)


def lean_command(python: str | None) -> list[str]:
    """Return the command of the process that runs a job; ``python`` None is the interpreter of this process."""
    return [python or sys.executable, "-P", "-m", MODULE]


def lean_input(job: LeanJob) -> bytes:
    """Return what to write to the standard input of the process, which must stay open while it runs."""
    return msgspec.json.encode(job) + b"\n"


def read_result(output: bytes) -> LeanResult | None:
    """Return the result that the process has written, or None."""
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(output, type=LeanResult)
    return None


class LeanCompiler:
    """Runs one process after the other, at idle priority, each for the packages of one handler.

    A job runs once in the life of the host: what has failed would fail again.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._tasks: set[asyncio.Task[None]] = set()
        self._jobs: set[tuple[str | None, LeanJob]] = set()
        self._slot = asyncio.Lock()

    def request(self, handler: str, python: str | None, job: LeanJob) -> None:
        """Run a job in the background, unless it was run before."""
        if (python, job) in self._jobs:
            return
        self._jobs.add((python, job))
        task = asyncio.create_task(self._run(handler, python, job), name=f"lean imports of {handler}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Kill the running process, and forget the jobs that wait."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, handler: str, python: str | None, job: LeanJob) -> None:
        async with self._slot:
            started_at = time.monotonic()
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    status, output = await self._run_process(python, job)
            except TimeoutError:
                _log.warning("%s: compiling its packages did not end within %g s", handler, TIMEOUT_S)
                return
            except OSError as error:
                _log.warning("%s: no process to compile its packages: %s", handler, error.strerror)
                return
            _report(handler, status, output, time.monotonic() - started_at)

    async def _run_process(self, python: str | None, job: LeanJob) -> tuple[ExitStatus, bytes]:
        """Run the process to its end, and return what it has written; kills it when cancelled."""
        with host_signals_blocked():
            process = subprocess.Popen(  # noqa: ASYNC220 - takes about 1 ms
                lean_command(python),
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
        assert process.stdin is not None, "it is a pipe"
        assert process.stdout is not None, "it is a pipe"
        with process.stdin, process.stdout:
            try:
                # Both fit into the buffer of a pipe (64 KB).
                with suppress(BrokenPipeError):
                    os.write(process.stdin.fileno(), lean_input(job))
                await wait_for_exit(process.pid)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                # At idle priority it may take a while to die.
                await wait_for_exit(process.pid)
                status = reap(process)
            os.set_blocking(process.stdout.fileno(), False)
            return status, process.stdout.read() or b""


def _report(handler: str, status: ExitStatus, output: bytes, seconds: float) -> None:
    result = read_result(output)
    if result is None:
        _log.warning("%s: compiling its packages failed (%s); its imports stay eager", handler, status.describe())
        return
    if result.failures:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in result.failures.items())
        _log.warning("%s: some packages stay eager until the host restarts: %s", handler, reasons)
    if result.compiled:
        names = ", ".join(result.compiled)
        _log.info("%s: lean imports from its next activation (compiled %s in %.0f s)", handler, names, seconds)
